//! Numbers that begin with a cache line: vectors of them do not lie across two, which takes twice as long.

/// Numbers of a line.
pub(super) const LINE: usize = 16;

/// What processors read and write at a time.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A buffer of whole lines.
pub(super) struct Lines(Vec<Line>);

impl Lines {
    pub const fn new() -> Self {
        Lines(Vec::new())
    }

    /// So many numbers, of which nothing is known.
    pub fn at_least(&mut self, length: usize) -> &mut [f32] {
        if self.0.len() * LINE < length {
            self.0.resize(length.div_ceil(LINE), Line([0.0; LINE]));
        }
        // SAFETY: lines are numbers without gaps, and at least as many.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }

    pub fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }
}

impl From<&[f32]> for Lines {
    fn from(values: &[f32]) -> Self {
        let mut lines = Lines::new();
        lines.at_least(values.len()).copy_from_slice(values);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_with_a_line_also_after_more_are_asked_for() {
        let values: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let mut lines = Lines::from(&*values);
        assert_eq!(lines.at_least(37), &*values);
        for length in [1, 16, 17, 5_000, 200_000, 3] {
            let numbers = lines.at_least(length);
            assert_eq!(numbers.len(), length);
            assert_eq!(numbers.as_ptr().align_offset(64), 0);
            assert_eq!(numbers.as_ptr(), lines.as_ptr());
        }
    }
}
