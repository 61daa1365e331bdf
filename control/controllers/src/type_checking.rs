//! `ValidatingAdmissionPolicy`: when one changes, its author is told in `status.typeChecking` where its expressions do not fit the kinds that
//! it is about. What is defined later is not heard of: upstream does not look again either.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use hypernetes_cel::Declaration;
use hypernetes_client::Api;
use hypernetes_kinds::{Home, expressions::admission, of_definition, registry};
use hypernetes_policy::type_checking::{self, Kind};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::{
    api::{DynamicObject, Patch},
    discovery::ApiResource,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    Wiring,
    definitions::Definition,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
};

pub fn start(wiring: &Wiring<'_>) {
    let context = Context::new(wiring.informers, "validatingadmissionpolicy-status-controller");
    let queue = wiring.queue();
    // The cache has them when they are asked for.
    wiring.informers.of::<Definition>();
    wiring
        .informers
        .of::<ValidatingAdmissionPolicy>()
        .feed(&queue, |key, policy| unseen(policy).map(|_| key.clone()).into_iter().collect());
    wiring.drive(Policies { context, builtin: Arc::default() }, queue);
}

/// The generation that nobody has looked at.
fn unseen(policy: &ValidatingAdmissionPolicy) -> Option<i64> {
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.filter(|generation| *generation > seen)
}

struct Policies {
    context: Context,
    /// What objects of the kinds are that are built in: made when it is first needed.
    builtin: Arc<Mutex<HashMap<Kind, Option<Declaration>>>>,
}

#[async_trait]
impl Reconciler for Policies {
    const NAME: &'static str = "validatingadmissionpolicy-status";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(policy) = self.context.informers.of::<ValidatingAdmissionPolicy>().get(key) else { return Ok(None) };
        let Some(generation) = unseen(&policy) else { return Ok(None) };
        let policy = serde_json::to_value(&*policy)?;
        let known = Known::of(&self.context, &key.tenant);
        let parameters = type_checking::parameters(&policy);
        let kinds = type_checking::kinds(&policy, |group, version, resource| known.kinds(group, version, resource));
        let defined = self.defined(&known, &key.tenant, kinds.iter().chain(&parameters)).await?;
        let builtin = self.builtin.clone();
        let check = move || {
            let declare = |kind: &Kind| match defined.get(kind) {
                Some(ty) => Some(admission::declared(ty)),
                None => declared(&builtin, kind),
            };
            let kinds: Vec<_> = kinds.into_iter().filter_map(|kind| declare(&kind).map(|made| (kind, made))).collect();
            let parameters = parameters.as_ref().and_then(declare).flatten();
            type_checking::warnings(&policy, &kinds, parameters.as_ref())
        };
        let warnings = tokio::task::spawn_blocking(check).await.map_err(|error| Error::Outside(Box::new(error)))?;
        let mut checked = json!({});
        if !warnings.is_empty() {
            checked["expressionWarnings"] = warnings.into();
        }
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": key.name},
            "status": {"observedGeneration": generation, "typeChecking": checked},
        });
        let api: Api<ValidatingAdmissionPolicy> = self.context.cluster(&key.tenant);
        match api.patch_status(&key.name, &self.context.patching().force(), &Patch::Apply(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other.during("writing what does not fit in a policy").map(|_| None),
        }
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<ValidatingAdmissionPolicy>(key)
    }
}

impl Policies {
    /// The types of those kinds that the tenant has defined.
    async fn defined(
        &self,
        known: &Known<'_>,
        tenant: &TenantId,
        kinds: impl Iterator<Item = &Kind>,
    ) -> Result<HashMap<Kind, Arc<hypernetes_schema::ObjectType>>, Error> {
        let api: Api<DynamicObject> =
            Api::all_with(self.context.client(tenant), &ApiResource::erase::<Definition>(&()));
        let mut types = HashMap::new();
        for kind in kinds.collect::<BTreeSet<_>>() {
            let Some(name) = known.definition(kind) else { continue };
            let read = api.get_opt(name).await.during("reading a definition")?;
            let Some(definition) = read.map(serde_json::to_value).transpose()? else { continue };
            let definition = Arc::new(definition);
            let again = definition.clone();
            let resources = of_definition(&definition, &(Arc::new(move || Value::clone(&again)) as _));
            let served = resources.iter().flat_map(|resource| &resource.served);
            let is = |ty: &hypernetes_schema::ObjectType| [&ty.group, &ty.version, &ty.kind].into_iter().eq(kind);
            if let Some(served) = served.into_iter().find(|served| is(&served.ty)) {
                types.insert(kind.clone(), served.ty.clone());
            }
        }
        Ok(types)
    }
}

/// What objects of a kind are that is built in; none: there is no such kind.
fn declared(made: &Mutex<HashMap<Kind, Option<Declaration>>>, kind: &Kind) -> Option<Option<Declaration>> {
    if let Some(made) = made.lock().get(kind) {
        return Some(made.clone());
    }
    let [group, version, name] = kind;
    let declared = admission::declared(&*registry::kind(group, version, name)?);
    made.lock().insert(kind.clone(), declared.clone());
    Some(declared)
}

/// The kinds that a tenant knows.
struct Known<'t> {
    tenant: &'t TenantId,
    definitions: Vec<Arc<Definition>>,
}

impl<'t> Known<'t> {
    fn of(context: &Context, tenant: &'t TenantId) -> Self {
        let mut definitions = context.informers.of::<Definition>().list_tenant(tenant);
        definitions.retain(|one| one.is_established());
        Self { tenant, definitions }
    }

    /// The kinds whose resource has this name, in whatever case: its plural, its singular or its kind's. As upstream has it, what is said to be
    /// in the core group may be in any.
    fn kinds(&self, group: &str, version: &str, resource: &str) -> Vec<Kind> {
        let name = resource.to_lowercase();
        let is = |of: [&str; 2], names: [&str; 3]| {
            let [plural, singular, kind] = names;
            (group.is_empty() || of[0] == group)
                && of[1] == version
                && (plural == name || singular == name || kind.to_lowercase() == name)
        };
        let seen = registry::builtin().iter().filter(|one| one.home != Home::System || self.tenant.is_system());
        let builtin = seen.flat_map(|one| one.served.iter().map(move |served| (one, &served.ty)));
        let builtin = builtin.filter(|(one, ty)| is([&ty.group, &ty.version], [&one.plural, &one.singular, &ty.kind]));
        let builtin = builtin.map(|(_, ty)| [ty.group.clone(), ty.version.clone(), ty.kind.clone()]);
        let defined = self.definitions.iter().flat_map(|one| {
            let names = &one.status.accepted_names;
            let versions = one.spec.versions.iter().filter(|version| version.served);
            let versions = versions
                .filter(|version| is([&one.spec.group, &version.name], [&names.plural, &names.singular, &names.kind]));
            versions.map(|version| [one.spec.group.clone(), version.name.clone(), names.kind.clone()])
        });
        builtin.chain(defined).collect()
    }

    /// The name of the definition that a kind is from.
    fn definition(&self, [group, version, kind]: &Kind) -> Option<&str> {
        let serves = |one: &&Arc<Definition>| {
            one.spec.group == *group
                && one.status.accepted_names.kind == *kind
                && one.spec.versions.iter().any(|served| served.served && served.name == *version)
        };
        self.definitions.iter().find(serves)?.metadata.name.as_deref()
    }
}
