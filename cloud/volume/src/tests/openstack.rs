//! The stock openstack client against the service, with the built-in identity service.

use std::{path::Path, process::Stdio};

use hypernetes_identity::{Identity, IdentityConfig, PasswordCost};

use super::*;

struct Client {
    environment: Vec<(&'static str, String)>,
    program: PathBuf,
}

impl Client {
    async fn run(&self, arguments: &str) -> Result<String, String> {
        let mut command = tokio::process::Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(self.environment.iter().cloned());
        command.args(arguments.split_whitespace()).stdin(Stdio::null());
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    async fn ok(&self, arguments: &str) -> String {
        self.run(arguments).await.unwrap_or_else(|error| panic!("openstack {arguments}: {error}"))
    }

    async fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{arguments} -f json")).await).unwrap()
    }

    async fn refused(&self, arguments: &str) -> String {
        self.run(arguments).await.expect_err("should have been refused")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_client_works() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/venv/bin/openstack");
    assert!(program.exists(), "{} is missing: scripts/client-tools.sh installs it", program.display());
    const PASSWORD: &str = "correct horse";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cloud = Cloud::empty(|config| VolumesConfig { public_url: url.clone(), max_bytes: 8 * GIB, ..config });
    let password_cost = PasswordCost { memory_kib: 64, passes: 1, parallel: 2 };
    let config = IdentityConfig { password_cost, ..IdentityConfig::new(&url) };
    let identity = Identity::start(&cloud.clients, config);
    identity.bootstrap(PASSWORD).await.unwrap();
    let volumes = cloud.service.router(identity.clone());
    let router = cloud.server.router().nest("/identity", identity.router()).nest("/volume", volumes);
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let environment = vec![
        ("OS_AUTH_URL", format!("{url}/identity/v3")),
        ("OS_IDENTITY_API_VERSION", "3".into()),
        ("OS_USERNAME", "admin".into()),
        ("OS_PASSWORD", PASSWORD.into()),
        ("OS_PROJECT_NAME", "admin".into()),
        ("OS_USER_DOMAIN_NAME", "Default".into()),
        ("OS_PROJECT_DOMAIN_NAME", "Default".into()),
    ];
    let admin = Client { environment, program };
    let tenant = admin.json("token issue").await["project_id"].as_str().unwrap().to_owned();
    cloud.tenant(&tenant).await;
    cloud.class().await;

    let made = admin.json("volume create --size 2 --description d --property a=b data").await;
    assert_eq!((&made["name"], &made["size"], &made["type"]), (&json!("data"), &json!(2), &json!("standard")));
    let available = || async {
        let shown = admin.json("volume show data").await;
        (shown["status"] == "available").then_some(shown)
    };
    let shown = cloud.eventually(available).await;
    assert_eq!((&shown["id"], &shown["properties"]), (&made["id"], &json!({"a": "b"})));
    assert_eq!(cloud.files(&tenant).len(), 1);
    assert!(admin.refused("volume create --size 9 big").await.contains("more than 8 GiB"));
    admin.ok("volume set data --name moved --property c=d").await;
    let list = admin.json("volume list --long").await;
    assert_eq!(
        (&list[0]["Name"], &list[0]["Size"], &list[0]["Type"]),
        (&json!("moved"), &json!(2), &json!("standard"))
    );
    assert_eq!(list[0]["Properties"], json!({"a": "b", "c": "d"}));
    admin.ok("volume unset moved --property a").await;
    assert!(admin.ok("volume type list").await.contains("standard"));
    assert!(admin.ok("volume service list").await.contains("cinder-volume"));
    cloud.attach(&tenant, "data").await;
    let in_use = || async {
        let shown = admin.json("volume show moved").await;
        (shown["status"] == "in-use").then_some(())
    };
    cloud.eventually(in_use).await;
    assert!(admin.refused("volume delete moved").await.contains("in-use"));
    cloud.detach(&tenant, "data").await;
    admin.ok("volume delete moved").await;
    cloud.eventually(|| async { admin.run("volume show moved").await.err() }).await;
    assert!(cloud.files(&tenant).is_empty());
    server.abort();
}
