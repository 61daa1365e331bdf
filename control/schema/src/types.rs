//! The kinds that the server knows, each with its schema, defaults, rules and columns behind one handle.

use crate::decode::{Decoded, FieldValidation};
use crate::{Schema, tree};
use hypernetes_api::ApiError;
use hypernetes_api::types::{identity, network, volume};
use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling_v2,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol, networking::v1 as networking,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource, SubResourceScope};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// One group, version and kind.
#[derive(Debug)]
pub struct ObjectType {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub namespaced: bool,
    source: Source,
    schema: OnceLock<Arc<Schema>>,
}

/// Where the schema comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The type's own schema is the whole object's.
    Kubernetes(Generate),
    /// The type's own schema has the object without `apiVersion`, `kind` and `metadata`.
    Own(Generate),
}

type Generate = fn(&mut SchemaGenerator) -> schemars::Schema;

fn generate<T: JsonSchema>(generator: &mut SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<T>()
}

/// Whether objects of a scope live in namespaces.
trait Scope {
    const NAMESPACED: bool;
}
impl Scope for ClusterResourceScope {
    const NAMESPACED: bool = false;
}
impl Scope for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}
impl Scope for SubResourceScope {
    const NAMESPACED: bool = true;
}

fn kubernetes<T: Resource<Scope: Scope> + JsonSchema>() -> ObjectType {
    ObjectType {
        group: T::GROUP.to_owned(),
        version: T::VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        namespaced: <T::Scope as Scope>::NAMESPACED,
        source: Source::Kubernetes(generate::<T>),
        schema: OnceLock::new(),
    }
}

fn own<T: JsonSchema>(group: &str, kind: &str) -> ObjectType {
    ObjectType {
        group: group.to_owned(),
        version: "v1alpha1".to_owned(),
        kind: kind.to_owned(),
        namespaced: false,
        source: Source::Own(generate::<T>),
        schema: OnceLock::new(),
    }
}

macro_rules! kubernetes_kinds {
    ($($module:ident: $($kind:ident)+;)+) => { vec![$($(kubernetes::<$module::$kind>(),)+)+] };
}
macro_rules! own_kinds {
    ($($module:ident: $($kind:ident)+;)+) => {
        vec![$($(own::<$module::$kind>(concat!(stringify!($module), ".hypernetes.io"), stringify!($kind)),)+)+]
    };
}

fn table() -> Vec<ObjectType> {
    let mut kinds = kubernetes_kinds! {
        core: Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
        apps: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        batch: CronJob Job;
        rbac: ClusterRole ClusterRoleBinding Role RoleBinding;
        storage: CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass;
        coordination: Lease;
        discovery: EndpointSlice;
        events: Event;
        networking: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
        node: RuntimeClass;
        policy: Eviction PodDisruptionBudget;
        scheduling: PriorityClass;
        autoscaling: HorizontalPodAutoscaler Scale;
        autoscaling_v2: HorizontalPodAutoscaler;
        authentication: SelfSubjectReview TokenRequest TokenReview;
        authorization: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview;
        certificates: CertificateSigningRequest;
        admissionregistration: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
        flowcontrol: FlowSchema PriorityLevelConfiguration;
        resource: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        apiextensions: CustomResourceDefinition;
        apiregistration: APIService;
    };
    kinds.push(ObjectType {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "DeleteOptions".to_owned(),
        namespaced: false,
        source: Source::Kubernetes(generate::<meta::DeleteOptions>),
        schema: OnceLock::new(),
    });
    kinds.extend(own_kinds! {
        identity: Domain Project User Role Group RoleAssignment TokenRevocation;
        network: Network Subnet Port;
        volume: Volume Attachment;
    });
    kinds
}

type Registry = HashMap<(String, String, String), Arc<ObjectType>>;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        table().into_iter().map(|ty| ((ty.group.clone(), ty.version.clone(), ty.kind.clone()), Arc::new(ty))).collect()
    })
}

impl ObjectType {
    /// A kind that is compiled in: Kubernetes' own and Hypernetes' own, including those that are only sent
    /// (`Scale`, `Binding`, `Eviction`, `TokenRequest`, the access reviews …).
    /// The core group is `""`; `DeleteOptions` belongs to it and to every other group.
    pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Arc<ObjectType>> {
        let (group, version) = if kind == "DeleteOptions" { ("", "v1") } else { (group, version) };
        registry().get(&(group.to_owned(), version.to_owned(), kind.to_owned())).cloned()
    }

    /// Every kind that is compiled in, in no order.
    pub fn all_builtin() -> impl Iterator<Item = Arc<ObjectType>> {
        registry().values().cloned()
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether the kind is Hypernetes' own.
    pub fn is_own(&self) -> bool {
        matches!(self.source, Source::Own(_))
    }

    /// The schema tree, built on first use.
    pub fn schema(&self) -> &Arc<Schema> {
        self.schema.get_or_init(|| {
            let (root, definitions) = self.generated();
            tree::build(&root, &definitions, &self.table_prefix())
        })
    }

    /// `schemars`' output with descriptions, made anew each time: the root (a reference) and all definitions.
    pub(crate) fn generated(&self) -> (Value, Map<String, Value>) {
        let mut generator = SchemaGenerator::default();
        let (Source::Kubernetes(generate) | Source::Own(generate)) = self.source;
        let root = generate(&mut generator).to_value();
        let metadata = generator.subschema_for::<meta::ObjectMeta>().to_value();
        let mut definitions = generator.take_definitions(false);
        if matches!(self.source, Source::Own(_))
            && let Some(properties) = tree::reference(&root)
                .and_then(|name| definitions.get_mut(name))
                .and_then(|body| body.get_mut("properties"))
                .and_then(Value::as_object_mut)
        {
            properties.insert("apiVersion".into(), json!({"type": "string", "description": API_VERSION_TEXT}));
            properties.insert("kind".into(), json!({"type": "string", "description": KIND_TEXT}));
            properties.insert("metadata".into(), metadata);
        }
        (root, definitions)
    }

    /// `network.hypernetes.io.v1alpha1`: what definitions of an own group are called by.
    pub(crate) fn table_prefix(&self) -> String {
        format!("{}.{}", self.group, self.version)
    }

    /// Parses a JSON body as this kind. `apiVersion` and `kind` are filled where absent, and must match where given;
    /// wrong types are a `BadRequest` in upstream's words; unknown and duplicate fields are errors, warnings
    /// or nothing by `mode`, and unknown fields are dropped in the latter two. `null` fields are dropped.
    pub fn decode(&self, body: &[u8], mode: FieldValidation) -> Result<Decoded, ApiError> {
        crate::decode::decode(self, body, mode)
    }

    /// The same checks for an object that exists as a value already, such as the outcome of a patch.
    /// Quantities and times are brought to their canonical form.
    pub fn check(&self, object: Value, mode: FieldValidation) -> Result<Decoded, ApiError> {
        crate::decode::check(self, object, mode)
    }

    /// Fills in what upstream's defaulting fills in. Idempotent.
    pub fn set_defaults(&self, object: &mut Value) {
        crate::defaults::set_defaults(self, object);
    }

    /// Before a create: drops what only the server sets (`status` of kinds that have the subresource),
    /// sets `metadata.generation` 1 for kinds that count generations, a pod's `status.phase` and QoS class …
    /// (uid, creation time, names from `generateName` and resource versions are the engine's.)
    pub fn prepare_create(&self, object: &mut Value) {
        crate::prepare::create(self, object);
    }

    /// Before an update of the main resource: keeps the old `status` (where it is a subresource) and the metadata that
    /// only the server sets, adds one to `metadata.generation` when the spec changed.
    pub fn prepare_update(&self, object: &mut Value, old: &Value) {
        crate::prepare::update(self, object, old);
    }

    /// Before an update of the `status` subresource: keeps all of `old` but `status` (and managed fields).
    pub fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        crate::prepare::status_update(self, object, old);
    }
}

const API_VERSION_TEXT: &str = "The version of the schema of this object, such as v1 or apps/v1.";
const KIND_TEXT: &str = "The kind of this object, in CamelCase. It cannot be changed.";
