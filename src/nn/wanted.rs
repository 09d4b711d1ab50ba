//! Work that is given up once nobody wants its result: a pass of a large model over a large tile takes a CPU many seconds.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    static WANTED: Cell<Option<&'static dyn Fn() -> bool>> = const { Cell::new(None) };
}

/// What unwinds from a layer to [`while_wanted`]; it is nobody's panic, and no hook hears of it.
struct Unwanted;

/// What `work` gives. Each layer that it runs on this thread asks before it begins whether the result is still `wanted`; `None` where
/// it is not, then or at the end.
///
/// # Panics
/// Where `work` does.
pub(crate) fn while_wanted<T>(wanted: &dyn Fn() -> bool, work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: it is known to this thread alone and until `work` ends, however that is: `_last` takes it away.
    let known = unsafe { std::mem::transmute::<&dyn Fn() -> bool, &'static dyn Fn() -> bool>(wanted) };
    let _last = Last(WANTED.replace(Some(known)));
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => wanted().then_some(result),
        Err(payload) if payload.is::<Unwanted>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// What was known before.
struct Last(Option<&'static dyn Fn() -> bool>);

impl Drop for Last {
    fn drop(&mut self) {
        WANTED.set(self.0);
    }
}

/// A layer begins. Where nobody wants what [`while_wanted`] runs here, it ends.
pub(super) fn go_on() {
    if WANTED.get().is_some_and(|wanted| !wanted()) {
        resume_unwind(Box::new(Unwanted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many layers, and how many of them began.
    fn layers(count: usize, wanted_for: usize) -> (Option<&'static str>, usize) {
        let (asked, begun) = (Cell::new(0), Cell::new(0));
        let wanted = || asked.replace(asked.get() + 1) < wanted_for;
        let result = while_wanted(&wanted, || {
            for _ in 0..count {
                go_on();
                begun.set(begun.get() + 1);
            }
            "done"
        });
        (result, begun.get())
    }

    #[test]
    fn layers_end_when_nobody_wants_them() {
        assert_eq!(layers(3, 4), (Some("done"), 3));
        assert_eq!(layers(3, 3), (None, 3), "it is asked at the end, too");
        assert_eq!(layers(3, 1), (None, 1));
        assert_eq!(layers(3, 0), (None, 0));
        // Elsewhere, and after that, nobody asks.
        go_on();
    }

    #[test]
    fn work_in_work_has_its_own_and_panics_pass() {
        let outer = Cell::new(true);
        let wanted = || outer.get();
        let result = while_wanted(&wanted, || {
            let inner = while_wanted(&|| false, go_on);
            assert_eq!(inner, None);
            go_on();
            let panic = catch_unwind(|| while_wanted(&|| true, || panic!("of the work")));
            assert!(panic.is_err());
            outer.set(false);
            go_on();
            unreachable!("it is not wanted any more");
        });
        assert_eq!(result, None::<()>);
    }
}
