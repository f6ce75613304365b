//! Which stage a line is about, where several are built at the same time.

use std::cell::RefCell;

thread_local! {
    static LABEL: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does something whose log lines begin with this label in brackets: those of this thread.
pub fn labelled<T>(label: String, work: impl FnOnce() -> T) -> T {
    let _restored = Restored(LABEL.replace(Some(label)));
    work()
}

/// What the lines of this thread begin with now, if with anything.
#[must_use]
pub fn label() -> Option<String> {
    LABEL.with_borrow(Clone::clone)
}

/// Puts the label back that was there before.
struct Restored(Option<String>);

impl Drop for Restored {
    fn drop(&mut self) {
        LABEL.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_nest_and_are_of_one_thread() {
        let inner = labelled("a".to_owned(), || {
            let inner = labelled("a 1/2".to_owned(), label);
            let other = std::thread::spawn(label).join().expect("it does not panic");
            (inner, label(), other)
        });
        assert_eq!(inner, (Some("a 1/2".to_owned()), Some("a".to_owned()), None));
        assert_eq!(label(), None);
    }
}
