//! An administrator's calls of the identity API, for the command line.

use http::{Method, Request, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use crate::login::{Connection, Login, LoginError};

/// A session with an administrator's token.
pub struct Administrator {
    connection: Connection,
    token: String,
}

/// A project as Keystone tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub id: String,
    pub name: String,
    pub enabled: bool,
}

impl Administrator {
    /// # Errors
    /// When the login is refused.
    pub async fn login(login: &Login) -> Result<Self, LoginError> {
        let connection = Connection::new(login)?;
        let password = login.password()?;
        let token = connection.issue(login, &password).await?.token;
        Ok(Self { connection, token })
    }

    /// # Errors
    /// When the service does not answer, or refuses.
    pub async fn projects(&self) -> Result<Vec<Project>, LoginError> {
        let body = self.call(Method::GET, "/projects?domain_id=default", None).await?;
        Ok(body["projects"].as_array().into_iter().flatten().filter_map(project).collect())
    }

    /// A project of the default domain, by name.
    ///
    /// # Errors
    /// As [`Administrator::projects`].
    pub async fn project(&self, name: &str) -> Result<Option<Project>, LoginError> {
        Ok(self.projects().await?.into_iter().find(|project| project.name == name))
    }

    /// Makes a project in the default domain.
    ///
    /// # Errors
    /// Also when there is one of this name.
    pub async fn create_project(&self, name: &str) -> Result<Project, LoginError> {
        let wanted = json!({"project": {"name": name, "domain_id": "default"}});
        let body = self.call(Method::POST, "/projects", Some(&wanted)).await?;
        project(&body["project"]).ok_or_else(|| self.connection.not_keystone("no project in the answer"))
    }

    /// Makes a user in the default domain whose first project is `project`, and gives them a role there.
    ///
    /// # Errors
    /// Also when there is one of this name, or no such role.
    pub async fn create_user(&self, name: &str, password: &str, project: &str, role: &str) -> Result<(), LoginError> {
        let roles = self.call(Method::GET, "/roles", None).await?;
        let roles = roles["roles"].as_array().cloned().unwrap_or_default();
        let role = roles.iter().find(|r| r["name"] == role).and_then(|r| r["id"].as_str());
        let role = role.ok_or_else(|| self.connection.not_keystone("there is no such role"))?;
        let wanted = json!({"user": {
            "name": name, "password": password, "domain_id": "default", "default_project_id": project,
        }});
        let user = self.call(Method::POST, "/users", Some(&wanted)).await?;
        let user = user["user"]["id"].as_str().unwrap_or_default();
        self.call(Method::PUT, &format!("/projects/{project}/users/{user}/roles/{role}"), None).await.map(drop)
    }

    /// Removes a project, and the users whose first project it was.
    ///
    /// # Errors
    /// When the service does not answer, or refuses.
    pub async fn delete_project(&self, id: &str) -> Result<(), LoginError> {
        let users = self.call(Method::GET, "/users?domain_id=default", None).await?;
        for user in users["users"].as_array().into_iter().flatten() {
            if user["default_project_id"] == id {
                let user = user["id"].as_str().unwrap_or_default();
                self.call(Method::DELETE, &format!("/users/{user}"), None).await?;
            }
        }
        self.call(Method::DELETE, &format!("/projects/{id}"), None).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, LoginError> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string().into_bytes()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", &self.token)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| self.connection.not_keystone("the request cannot be made"))?;
        let (response, body) = self.connection.send(request).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let status = response.status();
        if status.is_success() || status == StatusCode::NO_CONTENT {
            return Ok(body);
        }
        Err(self.connection.refused(status, &body))
    }
}

fn project(value: &Value) -> Option<Project> {
    Some(Project {
        id: value["id"].as_str()?.to_owned(),
        name: value["name"].as_str()?.to_owned(),
        enabled: value["enabled"] != false,
    })
}
