//! Values that are made once, by whoever needs one first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A value for each key. Who needs one that is being made waits for that one, and for no other.
pub(super) struct Once<K, V>(Mutex<HashMap<K, Arc<Mutex<Option<V>>>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Once<K, V> {
    /// The value of this key. One that could not be made is made anew for the next.
    pub(super) fn get_or_make<E>(
        &self,
        key: K,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let place = Arc::clone(locked(&self.0).entry(key).or_default());
        let mut value = locked(&place);
        if let Some(value) = &*value {
            return Ok(value.clone());
        }
        Ok(value.insert(make()?).clone())
    }

    /// The value of this key, if it was made.
    pub(super) fn made(&self, key: &K) -> Option<V> {
        let place = locked(&self.0).get(key).cloned()?;
        let value = locked(&place);
        value.clone()
    }
}

/// What a lock keeps. Whoever panics while it holds one ends the build, so that what it left is never used.
pub(super) fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_value_is_made_once_unless_that_fails() {
        let (once, made) = (Once::<u8, u32>::default(), AtomicU32::new(0));
        let make = || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed));
        assert_eq!(once.get_or_make(7, || Err(())), Err(()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(once.get_or_make(7, make), Ok(0)));
            }
        });
        assert_eq!(once.get_or_make(8, make), Ok(1));
    }
}
