use super::*;

fn limits(count: usize, bytes: u64) -> TemplateLimits {
    TemplateLimits { count, bytes, delay: Duration::ZERO }
}

fn key(tenant: &str) -> Key {
    Key {
        tenant: tenant.into(),
        cpus: 1,
        memory_mib: 128,
        disk_slots: 3,
        has_nic: true,
        machine: "VMM".into(),
        program: (1, 2, 3),
    }
}

fn template(tenant: &str, bytes: u64) -> Arc<Template<()>> {
    Template::new(key(tenant), (), bytes)
}

#[test]
fn those_not_used_for_longest_make_room() {
    let templates = Templates::new(limits(3, 100));
    let there = |tenant: &str| templates.state.lock().ready.iter().any(|t| t.key.tenant == tenant);
    for tenant in ["a", "b", "c"] {
        templates.insert(template(tenant, 10));
    }
    assert!(templates.find(&key("a")).is_some());
    templates.insert(template("d", 10));
    assert!(there("a") && !there("b") && there("c") && there("d"));
    templates.insert(template("e", 85));
    assert!(!there("c") && !there("a") && there("d") && there("e"));
    // A newer one takes the place of an older, and the VMM's upgrade that of all.
    templates.insert(template("e", 20));
    assert_eq!(templates.state.lock().ready.len(), 2);
    let mut upgraded = key("f");
    upgraded.program.1 += 1;
    templates.insert(Template::new(upgraded, (), 1));
    assert_eq!(templates.state.lock().ready.len(), 1);
}

#[test]
fn one_is_made_at_a_time_and_not_again_after_a_failure() {
    let templates = Templates::<()>::new(limits(3, 100));
    assert!(templates.claim(&key("a")) && templates.claim(&key("b")));
    assert!(!templates.claim(&key("a")));
    drop(Claim { templates: &templates, key: &key("a") });
    assert!(templates.claim(&key("a")));
    drop(Claim { templates: &templates, key: &key("a") });
    templates.fail(&key("a"));
    assert!(!templates.claim(&key("a")));
    templates.insert(template("c", 1));
    assert!(!templates.claim(&key("c")));
}

#[test]
fn one_tenants_many_kinds_cost_no_other_its_own() {
    let templates = Templates::new(limits(3, 100));
    templates.insert(template("quiet", 10));
    for cpus in 1..20 {
        templates.insert(Template::new(Key { cpus, ..key("busy") }, (), 10));
    }
    let ready = &templates.state.lock().ready;
    let kept: Vec<_> = ready.iter().map(|template| (template.key.tenant.as_str(), template.key.cpus)).collect();
    assert_eq!(kept, [("quiet", 1), ("busy", 18), ("busy", 19)]);
}
