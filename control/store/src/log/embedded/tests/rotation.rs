//! Keys that are changed while the store works.

use super::*;
use crate::RotationError;

fn open(machine: &Machine, ids: &[u32], left: Arc<AtomicUsize>) -> Store {
    let options = Options { encryption: Encryption::test(ids), ..small() };
    let mortal = Mortal { medium: machine.clone(), left, fails: Arc::default() };
    open_with(Path::new("/store"), options, Arc::new(mortal)).unwrap()
}

fn immortal() -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(usize::MAX))
}

/// The keys of all that is anywhere in the files, also where nothing is read any more.
fn keys_of(machine: &Machine) -> Vec<u32> {
    let mut keys = std::collections::BTreeSet::new();
    for content in machine.0.lock().values() {
        for frame in content.seen.chunks(8).enumerate().filter(|(_, eight)| eight.starts_with(b"HNf\x01")) {
            let key = &content.seen[frame.0 * 8 + 12..][..4];
            keys.insert(u32::from_le_bytes(key.try_into().unwrap()));
        }
    }
    keys.into_iter().collect()
}

async fn fill_up(store: &Store, round: u8) {
    for index in 0..60 {
        store.commit(put(&format!("n{}", index % 20), &[round; 300])).await.unwrap();
    }
}

#[tokio::test]
async fn after_other_keys_nothing_of_the_old_one_is_anywhere_and_writes_go_on_meanwhile() {
    let machine = Machine::default();
    let store = open(&machine, &[4], immortal());
    // Once there was more than there will be: of several frames in each checkpoint.
    for index in 0..9 {
        store.commit(put(&format!("large{}", index % 3), &[7; 700 << 10])).await.unwrap();
    }
    for index in 0..3 {
        store.commit(delete(&format!("large{index}"))).await.unwrap();
    }
    // Both checkpoints and several segments, some of which wait to be used again.
    fill_up(&store, 1).await;
    assert_eq!(keys_of(&machine), [4]);
    for (ids, wrong) in [(&[9][..], RotationError::Missing(4)), (&[], RotationError::Missing(4))] {
        assert_eq!(store.rotate(Encryption::test(ids)).await, Err(wrong));
    }
    fill_up(&store, 2).await;
    assert_eq!(keys_of(&machine), [4], "what is refused changes nothing");
    let (rotated, ()) = tokio::join!(store.rotate(Encryption::test(&[9, 4])), fill_up(&store, 3));
    rotated.unwrap();
    assert_eq!(keys_of(&machine), [9]);
    fill_up(&store, 4).await;
    let expected = content(&store).await;
    drop(store);
    assert_eq!(keys_of(&machine), [9]);
    let store = open(&machine, &[9], immortal());
    assert_eq!(content(&store).await, expected);
    // The old one can go while it runs, too.
    store.rotate(Encryption::test(&[11, 9])).await.unwrap();
    store.rotate(Encryption::test(&[11])).await.unwrap();
    assert_eq!(keys_of(&machine), [11]);
}

#[tokio::test]
async fn whoever_is_killed_while_keys_are_changed_loses_nothing_and_begins_again() {
    let (mut steps, mut killed) = (0, 0);
    loop {
        let (machine, left) = (Machine::default(), immortal());
        let store = open(&machine, &[4], left.clone());
        fill_up(&store, 1).await;
        left.store(steps, Ordering::SeqCst);
        let mut acknowledged = content(&store).await;
        let writes = async {
            for index in 0..5_u8 {
                if store.commit(put("later", &[index])).await.is_ok() {
                    acknowledged.insert("later".into(), vec![index]);
                }
            }
        };
        let (rotated, ()) = tokio::join!(store.rotate(Encryption::test(&[9, 4])), writes);
        let alive = left.load(Ordering::SeqCst) > 0;
        left.store(0, Ordering::SeqCst);
        drop(store);
        machine.lose_power(&[Fate::Dropped, Fate::Torn, Fate::Kept]);
        let store = open(&machine, &[9, 4], immortal());
        let mut found = content(&store).await;
        // What was not acknowledged may be there.
        assert!(found.remove("later") >= acknowledged.remove("later"), "after {steps}");
        assert_eq!(found, acknowledged, "after {steps}");
        store.rotate(Encryption::test(&[9, 4])).await.unwrap();
        assert_eq!(keys_of(&machine), [9], "after {steps}");
        drop(store);
        drop(open(&machine, &[9], immortal()));
        killed += u8::from(rotated.is_err());
        if rotated.is_ok() && alive {
            break;
        }
        steps += 1;
    }
    assert!(killed > 10, "{killed}");
}

/// As who starts the server with another first key than before, at whichever step of that it is killed: the next start finishes it.
#[tokio::test]
async fn a_start_with_another_first_key_leaves_nothing_of_the_old_one_whoever_is_killed() {
    let (mut steps, mut killed) = (0, 0);
    loop {
        let machine = Machine::default();
        let store = open(&machine, &[4], immortal());
        // In one round before there was a checkpoint with something in it, in the other not.
        if steps % 2 == 0 {
            fill_up(&store, 1).await;
        }
        fill_up(&store, 2).await;
        let expected = content(&store).await;
        drop(store);
        let left = Arc::new(AtomicUsize::new(steps));
        let options = Options { encryption: Encryption::test(&[9, 4]), ..small() };
        let mortal = Mortal { medium: machine.clone(), left: left.clone(), fails: Arc::default() };
        drop(open_with(Path::new("/store"), options, Arc::new(mortal)));
        let alive = left.load(Ordering::SeqCst) > 0;
        if !alive {
            machine.lose_power(&[Fate::Dropped, Fate::Torn, Fate::Kept]);
            killed += 1;
        }
        // What is begun with a start is done when it has been closed.
        drop(open(&machine, &[9, 4], immortal()));
        assert_eq!(keys_of(&machine), [9], "after {steps}");
        assert_eq!(content(&open(&machine, &[9], immortal())).await, expected, "after {steps}");
        if alive {
            break;
        }
        steps += 1;
    }
    assert!(killed > 10, "{killed}");
}
