//! What is made of a value when it is first asked for: one of each type, for as long as the value lives.

use std::{any::Any, sync::OnceLock};

/// A list of what was made, which only grows; reading it takes no lock.
#[derive(Default)]
pub(crate) struct Forms(OnceLock<Box<Slot<dyn Any + Send + Sync>>>);

struct Slot<T: ?Sized> {
    next: Forms,
    form: T,
}

impl Forms {
    /// While one makes a form, others wait who want the same; making it may ask for those of other types.
    pub fn get_or_make<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> &T {
        let mut place = self;
        loop {
            let empty = || Box::new(Slot { next: Self::default(), form: OnceLock::<T>::new() }) as Box<Slot<_>>;
            let slot = place.0.get_or_init(empty);
            if let Some(form) = slot.form.downcast_ref::<OnceLock<T>>() {
                return form.get_or_init(make);
            }
            place = &slot.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_is_made_once_whoever_asks_and_of_whatever_it_is_made() {
        let (forms, made) = (Forms::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let text = forms.get_or_make(|| {
                        made.fetch_add(1, Ordering::Relaxed);
                        // A form may be made of another.
                        forms.get_or_make(|| 7_u64).to_string()
                    });
                    assert_eq!((text.as_str(), forms.get_or_make(|| 8_u64)), ("7", &7));
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
