//! Padding by reflection, as an index: the frame continues with its own pixels, without the hard
//! edge that a black border would add for a model to sharpen.

/// The source of pixel `i` along an axis of `len` pixels that continues by reflection: `i` itself
/// inside, and outside the pixel mirrored about the first or the last one, which is not repeated
/// (`... 2 1 | 0 1 2 3 | 2 1 0 1 ...`).
///
/// Any distance works: the reflection is periodic, so padding may exceed the frame, and a single
/// pixel is repeated.
///
/// # Panics
///
/// If `len` is zero.
pub fn reflect(i: isize, len: usize) -> usize {
    assert!(len > 0, "nothing to reflect in an empty axis");
    if len == 1 {
        return 0;
    }
    let last = len - 1;
    let phase = i.rem_euclid(2 * last as isize) as usize;
    if phase <= last { phase } else { 2 * last - phase }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reflection_mirrors_about_both_ends(i in -10_000isize..10_000, len in 1usize..300) {
            let last = len as isize - 1;
            prop_assert!(reflect(i, len) < len);
            prop_assert_eq!(reflect(i, len), reflect(-i, len));
            prop_assert_eq!(reflect(last + i, len), reflect(last - i, len));
            if (0..=last).contains(&i) {
                prop_assert_eq!(reflect(i, len), i as usize);
            }
        }
    }

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let around: Vec<usize> = (-4..9).map(|i| reflect(i, 4)).collect();
        assert_eq!(around, [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]);
        assert!((-5..6).all(|i| reflect(i, 1) == 0));
    }
}
