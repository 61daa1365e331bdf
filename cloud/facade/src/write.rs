//! Writes of API objects for clients that know nothing of their names and versions. Each is done once, or is told why not.

use std::fmt::Debug;

use hypernetes_client::Api;
use kube::{Resource, ResourceExt, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};

/// Of an update, when others write at the same time.
const ATTEMPTS: usize = 5;

fn is_conflict<T>(result: &Result<T, kube::Error>) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == 409)
}

/// Makes an object under the name that the client gave it, if that can be an object's name (`usable`) and is free; else under
/// `generated`, and the client's is for display: names of OpenStack may be anything, and several objects may have the same.
///
/// `named` makes the object with this `metadata.name` and this display name, which is empty where both are the same.
///
/// # Errors
/// Those of `named`, and the API server's.
pub async fn create<K, E>(
    api: &Api<K>,
    name: &str,
    usable: bool,
    generated: &str,
    named: impl Fn(&str, &str) -> Result<K, E>,
) -> Result<K, E>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
    E: From<kube::Error>,
{
    if usable {
        let created = api.create(&PostParams::default(), &named(name, "")?).await;
        if !is_conflict(&created) {
            return Ok(created?);
        }
    }
    Ok(api.create(&PostParams::default(), &named(generated, name)?).await?)
}

/// Why an object is as it was.
#[derive(Debug)]
pub enum NotUpdated<E> {
    /// Somebody has deleted it meanwhile.
    Gone,
    /// Others have written it each time.
    Contended,
    /// The change itself cannot be.
    Refused(E),
    /// The API server refused it for another reason than somebody else's write, or does not answer.
    Api(kube::Error),
}

/// Changes an object; begins again with the newest version when others have changed it meanwhile.
///
/// `same` tells whether what has the name by now is still the object.
///
/// # Errors
/// See [`NotUpdated`].
pub async fn update<K, E>(
    api: &Api<K>,
    object: K,
    same: impl Fn(&K) -> bool,
    change: impl Fn(&mut K) -> Result<(), E>,
) -> Result<K, NotUpdated<E>>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    let mut current = object;
    for _ in 0..ATTEMPTS {
        change(&mut current).map_err(NotUpdated::Refused)?;
        let replaced = api.replace(&name, &PostParams::default(), &current).await;
        if !is_conflict(&replaced) {
            return replaced.map_err(NotUpdated::Api);
        }
        let newest = api.get_opt(&name).await.map_err(NotUpdated::Api)?;
        current = newest.filter(&same).ok_or(NotUpdated::Gone)?;
    }
    Err(NotUpdated::Contended)
}
