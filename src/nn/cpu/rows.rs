//! How threads share the rows of pictures.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::lines::Lines;
use super::pool::{on_own_threads, threads};
use crate::nn::wanted::go_on;

/// Rows for which one more pair of threads pays.
const ROWS_OF_A_PAIR: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// Neighbouring rows of an image, in stripes of columns. One thread takes them from the top down, another from the bottom up,
/// until they meet: both are busy to the end, however fast each of them is, and where windows go over the rows each makes but
/// one of the other's anew. There is at most one walk each way.
struct Span {
    image: usize,
    rows: Range<usize>,
    /// Of each stripe, how many rows are taken.
    taken: Vec<AtomicUsize>,
}

/// One thread's way over a span: gives what it is to make, row by row, stripe after stripe.
pub(super) struct Walk<'a, T> {
    span: &'a Span,
    upwards: bool,
    stripe: usize,
    /// Taken by this thread in the stripe.
    own: usize,
    /// Of the first image.
    output: *mut T,
    shape: Shape,
    outputs: PhantomData<&'a mut [T]>,
}

// SAFETY: walks over the same output give parts of it that have nothing in common: of a span there is one each way.
unsafe impl<T: Send> Send for Walk<'_, T> {}

/// Of the output.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub height: usize,
    /// Values of a row.
    pub row: usize,
    /// Values of a row's stripes, of which the last may be narrower.
    pub stripe: usize,
}

/// A part of a row.
pub(super) struct Part<'a, T> {
    pub row: usize,
    /// The first of its values in the row.
    pub start: usize,
    pub values: &'a mut [T],
    /// Whether it is the walk's first in this stripe. Each that follows is the one below the last, or above.
    pub is_first: bool,
}

impl<T> Walk<'_, T> {
    pub fn image(&self) -> usize {
        self.span.image
    }

    /// Whether each row lies above the one before.
    pub fn upwards(&self) -> bool {
        self.upwards
    }
}

impl<'a, T> Iterator for Walk<'a, T> {
    type Item = Part<'a, T>;

    fn next(&mut self) -> Option<Part<'a, T>> {
        let Shape {
            height,
            row: length,
            stripe,
        } = self.shape;
        let rows = &self.span.rows;
        loop {
            // Only the number counts; what is made is handed over when the threads join.
            let taken = self.span.taken.get(self.stripe)?.fetch_add(1, Ordering::Relaxed);
            if taken < rows.len() {
                break;
            }
            (self.stripe, self.own) = (self.stripe + 1, 0);
        }
        let row = match self.upwards {
            false => rows.start + self.own,
            true => rows.end - 1 - self.own,
        };
        self.own += 1;
        let start = self.stripe * stripe;
        let first = (self.span.image * height + row) * length + start;
        // SAFETY: within the output, and given but once: together the walks down and up take no more rows of a stripe than it has.
        let values =
            unsafe { std::slice::from_raw_parts_mut(self.output.add(first), stripe.min(length - start)) };
        Some(Part {
            row,
            start,
            values,
            is_first: self.own == 1,
        })
    }
}

/// Has all of `output` made, images of that shape: `make` gets walks over it, and a buffer that the thread keeps.
pub(super) fn share<T: Send>(
    output: &mut [T],
    shape: Shape,
    make: impl Fn(Walk<T>, &mut Lines) + Sync + Send,
) {
    go_on();
    #[cfg(test)]
    if UPWARDS.get() {
        return share_among(output, shape, 1, &[true], make);
    }
    let threads = threads();
    let pairs = threads.div_ceil(2).min(shape.height.div_ceil(ROWS_OF_A_PAIR));
    let directions: &[bool] = match threads > 1 && shape.height > 1 {
        true => &[false, true],
        false => &[false],
    };
    share_among(output, shape, pairs.max(1), directions, make);
}

/// As [`share`], with so many spans an image and walks in these directions over each.
fn share_among<T: Send>(
    output: &mut [T],
    shape: Shape,
    pairs: usize,
    directions: &[bool],
    make: impl Fn(Walk<T>, &mut Lines) + Sync + Send,
) {
    let height = shape.height;
    let images = output.len() / (height * shape.row).max(1);
    assert!(output.len() == images * height * shape.row && (shape.stripe > 0 || output.is_empty()));
    let stripes = shape.row.div_ceil(shape.stripe.max(1));
    let spans: Vec<Span> = (0..images * pairs)
        .map(|i| {
            let (image, pair) = (i / pairs, i % pairs);
            Span {
                image,
                rows: height * pair / pairs..height * (pair + 1) / pairs,
                taken: (0..stripes).map(|_| AtomicUsize::new(0)).collect(),
            }
        })
        .collect();
    let first = output.as_mut_ptr();
    let walks = spans.iter().flat_map(|span| {
        directions.iter().map(move |upwards| Walk {
            span,
            upwards: *upwards,
            stripe: 0,
            own: 0,
            output: first,
            shape,
            outputs: PhantomData,
        })
    });
    let make = |walk: Walk<T>| SCRATCH.with_borrow_mut(|scratch| make(walk, scratch));
    let walks: Vec<Walk<T>> = walks.collect();
    match directions {
        // Here, where it is asked for.
        [_] => walks.into_iter().for_each(make),
        // One by one, so that a span's two walks do not wait for each other on one thread.
        _ => on_own_threads(|| walks.into_par_iter().with_max_len(1).for_each(make)),
    }
}

#[cfg(test)]
thread_local! {
    static UPWARDS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Has what this thread [shares](share) meanwhile made by itself, from the bottom up.
#[cfg(test)]
pub(super) fn from_the_bottom<R>(work: impl FnOnce() -> R) -> R {
    UPWARDS.set(true);
    let made = work();
    UPWARDS.set(false);
    made
}

/// Has the rows of one picture made by all threads that may share a layer: `make` gets each row and its number.
pub(crate) fn by_rows<T: Send>(
    output: &mut [T],
    row_length: usize,
    make: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let shape = Shape {
        height: output.len() / row_length.max(1),
        row: row_length,
        stripe: row_length,
    };
    let whole = shape.height * row_length;
    share(&mut output[..whole], shape, |walk, _| {
        walk.for_each(|part| make(part.row, part.values))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_given_once_and_rows_follow_one_another() {
        let shapes = [
            (1, 1, 6),
            (1, 2, 4),
            (3, 40, 6),
            (2, 7, 1),
            (1, 300, 5),
            (0, 4, 6),
            (1, 0, 6),
        ];
        for ((images, height, stripe), pairs) in
            shapes.iter().flat_map(|shape| [1, 2, 3].map(|n| (*shape, n)))
        {
            let shape = Shape {
                height,
                row: 6,
                stripe,
            };
            for directions in [&[false, true][..], &[false], &[true]] {
                let mut output = vec![0u32; images * height * 6];
                share_among(&mut output, shape, pairs, directions, |walk, _| {
                    let (image, upwards) = (walk.image(), walk.upwards());
                    let mut last = None;
                    for part in walk {
                        // A new stripe begins anew.
                        let before = last.filter(|(_, start)| *start == part.start);
                        let expected = before.map(|(row, _): (usize, usize)| match upwards {
                            false => row + 1,
                            true => row - 1,
                        });
                        assert_eq!(part.is_first, expected.is_none());
                        assert_eq!(part.row, expected.unwrap_or(part.row));
                        last = Some((part.row, part.start));
                        for (i, value) in part.values.iter_mut().enumerate() {
                            *value += 1 + ((image * height + part.row) * 6 + part.start + i) as u32;
                        }
                    }
                });
                let all: Vec<u32> = (1..=output.len() as u32).collect();
                assert_eq!(output, all);
            }
        }
    }

    #[test]
    fn a_thread_that_has_no_others_makes_every_image_itself() {
        // A thread of its own, because the number of libtorch's threads stays with it.
        let alone = std::thread::spawn(|| {
            tch::get_num_threads();
            tch::set_num_threads(1);
            let here = std::thread::current().id();
            let mut output = vec![0.0; 3 * 40 * 2];
            let shape = Shape {
                height: 40,
                row: 2,
                stripe: 2,
            };
            share(&mut output, shape, |walk, _| {
                assert_eq!(std::thread::current().id(), here);
                let image = walk.image();
                assert_eq!(walk.map(|part| part.values.fill(image as f32 + 1.0)).count(), 40);
            });
            output
        });
        let output = alone.join().unwrap();
        for (image, values) in output.chunks_exact(80).enumerate() {
            assert!(values.iter().all(|v| *v == image as f32 + 1.0));
        }
    }
}
