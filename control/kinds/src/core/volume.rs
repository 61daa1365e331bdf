//! The volumes of a pod: names, sources, and the paths of what is in them.

use std::collections::{BTreeMap, HashSet};

use super::{downward, persistent_volume_claim, resources};
use crate::{
    field::{Errors, Field},
    format, meta, selector,
};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

pub(crate) const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

type Check = fn(&Field<'_>, &mut Errors);

/// The sources of volumes in the order in which upstream looks at them, with the rules of each. Of several in one volume, the
/// first is checked and the others are refused.
const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |v, e| required(v, &["pdName"], e)),
    ("awsElasticBlockStore", |v, e| required(v, &["volumeID"], e)),
    ("secret", |v, e| files(v, "secretName", e)),
    ("nfs", nfs),
    ("iscsi", |v, e| required(v, &["targetPortal", "iqn"], e)),
    ("glusterfs", |v, e| required(v, &["endpoints", "path"], e)),
    ("persistentVolumeClaim", |v, e| v.get("claimName").required_text(e, format::reference)),
    ("rbd", |v, e| required(v, &["monitors", "image"], e)),
    ("cinder", |v, e| required(v, &["volumeID"], e)),
    ("cephfs", |v, e| required(v, &["monitors"], e)),
    ("flocker", flocker),
    ("downwardAPI", downward_api),
    ("fc", fibre_channel),
    ("flexVolume", flex),
    ("configMap", |v, e| files(v, "name", e)),
    ("azureFile", |v, e| required(v, &["secretName", "shareName"], e)),
    ("vsphereVolume", |v, e| required(v, &["volumePath"], e)),
    ("quobyte", |v, e| required(v, &["registry", "volume"], e)),
    ("azureDisk", |v, e| required(v, &["diskName", "diskURI"], e)),
    ("storageos", storage_os),
    ("portworxVolume", |v, e| required(v, &["volumeID"], e)),
    ("photonPersistentDisk", |v, e| required(v, &["pdID"], e)),
    ("projected", projected),
    ("scaleIO", |v, e| required(v, &["gateway", "system", "volumeName"], e)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

/// The volumes of a pod that are good, by name.
pub(crate) type Volumes<'a> = BTreeMap<&'a str, Field<'a>>;

/// Checks a pod's volumes; `pod` is the pod's name, which templates do not have.
pub(crate) fn check<'a>(volumes: &Field<'a>, pod: &str, errors: &mut Errors) -> Volumes<'a> {
    let mut good = Volumes::new();
    for volume in volumes.items() {
        let (name, before) = (volume.get("name"), errors.count());
        source(&volume, pod, errors);
        name.required_text(errors, format::label);
        if good.contains_key(name.text()) {
            name.duplicate(errors);
        }
        if errors.count() == before {
            good.insert(name.text(), volume);
        }
    }
    good
}

fn source(volume: &Field<'_>, pod: &str, errors: &mut Errors) {
    let mut found = false;
    for (name, rules) in SOURCES {
        let source = volume.get(name);
        if !source.is_set() {
            continue;
        }
        if found {
            source.forbidden(errors, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        rules(&source, errors);
        let of_volume = volume.get("name").text();
        if *name == "ephemeral" && !pod.is_empty() && !of_volume.is_empty() {
            let claim = format!("{pod}-{of_volume}");
            for fault in format::subdomain(&claim) {
                let why = format!("PVC name {}: {fault}", crate::field::quote(&claim));
                source.get("name").invalid_quoted(errors, of_volume, why);
            }
        }
    }
    if !found {
        volume.required(errors, "must specify a volume type");
    }
}

fn required(source: &Field<'_>, fields: &[&'static str], errors: &mut Errors) {
    fields.iter().for_each(|name| source.get(name).not_empty(errors));
}

fn mode(source: &Field<'_>, name: &'static str, errors: &mut Errors) {
    let mode = source.get(name);
    if mode.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        mode.invalid(errors, FILE_MODE);
    }
}

fn empty_dir(source: &Field<'_>, errors: &mut Errors) {
    let limit = source.get("sizeLimit");
    if resources::quantity(limit.value).is_some_and(|limit| limit.is_negative()) {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(source: &Field<'_>, errors: &mut Errors) {
    let path = source.get("path");
    if path.is_empty() {
        return path.required(errors, "");
    }
    if format::steps_back(path.text()) {
        path.invalid(errors, "must not contain '..'");
    }
    source.get("type").optional_one_of(errors, HOST_PATH_TYPES);
}

fn git_repo(source: &Field<'_>, errors: &mut Errors) {
    source.get("repository").not_empty(errors);
    source.get("directory").optional_text(errors, format::descending_path);
}

pub(crate) fn nfs(source: &Field<'_>, errors: &mut Errors) {
    required(source, &["server", "path"], errors);
    let path = source.get("path");
    if !format::is_absolute(path.text()) {
        path.invalid_text(errors, "must be an absolute path");
    }
}

fn flocker(source: &Field<'_>, errors: &mut Errors) {
    let (name, uuid) = (source.get("datasetName"), source.get("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        source.required(errors, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        source.invalid_quoted(errors, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.text().contains('/') {
        name.invalid(errors, "must not contain '/'");
    }
}

fn fibre_channel(source: &Field<'_>, errors: &mut Errors) {
    let names = source.get("targetWWNs");
    match (names.is_empty(), source.get("wwids").is_empty()) {
        (true, true) => names.required(errors, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => names.invalid(errors, "targetWWNs and wwids can not be specified simultaneously"),
        _ => {}
    }
}

/// Options of a driver that are in Kubernetes' own domain are reserved.
fn flex(source: &Field<'_>, errors: &mut Errors) {
    source.get("driver").not_empty(errors);
    for (key, option) in source.get("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            option.invalid_quoted(errors, key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn storage_os(source: &Field<'_>, errors: &mut Errors) {
    source.get("volumeName").required_text(errors, format::label);
    source.get("volumeNamespace").optional_text(errors, format::label);
}

/// A config map or a secret as files.
fn files(source: &Field<'_>, name: &'static str, errors: &mut Errors) {
    source.get(name).required_text(errors, format::reference);
    mode(source, "defaultMode", errors);
    source.get("items").items().for_each(|item| item_of(&item, errors));
}

/// A key and the path of its file.
fn item_of(item: &Field<'_>, errors: &mut Errors) {
    item.get("key").not_empty(errors);
    let path = item.get("path");
    path.not_empty(errors);
    path.faulty(errors, format::local_path(path.text()));
    mode(item, "mode", errors);
}

fn downward_api(source: &Field<'_>, errors: &mut Errors) {
    mode(source, "defaultMode", errors);
    // Upstream's paths have no items here.
    source.get("items").items().for_each(|item| downward_file(&Field::at(item.value, source.path.clone()), errors));
}

fn downward_file(file: &Field<'_>, errors: &mut Errors) {
    let path = file.get("path");
    path.not_empty(errors);
    path.faulty(errors, format::local_path(path.text()));
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, both) => {
            downward::field(&field, downward::OF_VOLUMES, errors);
            if both {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                file.invalid_quoted(errors, "resource", why);
            }
        }
        (false, true) => downward::resource(&resource, true, errors),
        (false, false) => file.required(errors, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode", errors);
}

fn projected(source: &Field<'_>, errors: &mut Errors) {
    mode(source, "defaultMode", errors);
    let mut paths = HashSet::new();
    for part in source.get("sources").items() {
        let mut parts = 0;
        for (name, of) in [("secret", "name"), ("configMap", "name")] {
            let from = part.get(name);
            if from.is_set() {
                parts += 1;
                let of = from.get(of);
                of.required_text(errors, format::reference);
                for item in from.get("items").items() {
                    item_of(&item, errors);
                    distinct(source, &mut paths, item.get("path").text(), of.text(), errors);
                }
            }
        }
        let from = part.get("downwardAPI");
        if from.is_set() {
            parts += 1;
            for item in from.get("items").items() {
                downward_file(&Field::at(item.value, from.path.clone()), errors);
                let path = item.get("path").text();
                distinct(source, &mut paths, path, path, errors);
            }
        }
        let from = part.get("serviceAccountToken");
        if from.is_set() {
            parts += 1;
            token(source, &from, errors);
        }
        let from = part.get("clusterTrustBundle");
        if from.is_set() {
            parts += 1;
            trust_bundle(&from, errors);
            let path = from.get("path").text();
            distinct(source, &mut paths, path, path, errors);
        }
        let from = part.get("podCertificate");
        if from.is_set() {
            parts += 1;
            for name in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                from.get(name).optional_text(errors, format::local_path);
                let path = from.get(name).text();
                distinct(source, &mut paths, path, path, errors);
            }
        }
        if parts > 1 {
            part.forbidden(errors, "may not specify more than 1 volume type per source");
        }
    }
}

/// An error when a path of a projected volume is there already, which is said of `of`.
fn distinct<'a>(source: &Field<'_>, paths: &mut HashSet<&'a str>, path: &'a str, of: &str, errors: &mut Errors) {
    if !path.is_empty() && !paths.insert(path) {
        source.invalid_quoted(errors, of, "conflicting duplicate paths");
    }
}

fn token(source: &Field<'_>, token: &Field<'_>, errors: &mut Errors) {
    token_life(&token.get("expirationSeconds"), errors);
    // Upstream's path here is the volume's.
    Field::at(token.get("path").value, source.path.child("path")).required_text(errors, format::local_path);
}

/// For how many seconds a token holds that is asked for.
pub(crate) fn token_life(seconds: &Field<'_>, errors: &mut Errors) {
    let life = seconds.int().unwrap_or(3600);
    if life < 600 {
        seconds.invalid(errors, "may not specify a duration less than 10 minutes");
    }
    if life > 1 << 32 {
        seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
    }
}

fn trust_bundle(bundle: &Field<'_>, errors: &mut Errors) {
    let (name, signer, labels) = (bundle.get("name"), bundle.get("signerName"), bundle.get("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => bundle.invalid(errors, "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_empty() {
                name.required(errors, "must be a valid object name");
            }
            // A bundle of a signer is called `signer.domain:path:name`.
            for part in name.text().split(':') {
                for fault in format::subdomain(part) {
                    name.invalid(errors, format!("not a valid clustertrustbundlename: {fault}"));
                }
            }
            if labels.is_set() {
                labels.invalid_as(errors, selector::shown(&labels), "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                signer.required(errors, "must be a valid signer name");
            }
            selector::check(&labels, errors);
        }
        (false, false) => bundle.required(errors, "either name or signerName must be specified"),
    }
    let path = bundle.get("path");
    path.not_empty(errors);
    path.faulty(errors, format::local_path(path.text()));
}

/// The name of a CSI driver: a subdomain in any case, of 63 bytes at most.
pub(crate) fn driver_name(name: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return name.required(errors, "");
    }
    if name.text().len() > 63 {
        name.too_long(errors, 63);
    }
    name.faulty(errors, format::subdomain(&name.text().to_lowercase()));
}

fn csi(source: &Field<'_>, errors: &mut Errors) {
    driver_name(&source.get("driver"), errors);
    let secret = source.get("nodePublishSecretRef");
    if secret.is_set() {
        secret.get("name").required_text(errors, format::subdomain);
    }
}

fn ephemeral(source: &Field<'_>, errors: &mut Errors) {
    let template = source.get("volumeClaimTemplate");
    if !template.is_set() {
        return template.required(errors, "");
    }
    let metadata = template.get("metadata");
    meta::template(&metadata, errors);
    persistent_volume_claim::spec(&template.get("spec"), errors);
}

fn image(source: &Field<'_>, errors: &mut Errors) {
    source.get("reference").not_empty(errors);
    source.get("pullPolicy").required_one_of(errors, &["Always", "IfNotPresent", "Never"]);
}
