//! The model's work on a GPU, recorded once for each size of batch and then asked for as a whole: where tiles are small, asking for its
//! kernels one by one takes longer than they do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use super::pass::Forward;
use super::worker::guarded;
use crate::nn::copied;
use crate::{Error, Result};

/// Batches of more pixels are not recorded: their kernels take longer than asking for them, and a recording keeps its memory.
const MOST_PIXELS: i64 = 1 << 20;
/// Sizes of batches that are recorded.
const MOST_SIZES: usize = 4;
/// What a recording's output may differ by from the model's own, in both being in [-1, 1], before it is not trusted.
const TOLERANCE: f64 = 1e-2;

/// A recording has not come to its end; nothing in this process is recorded any more.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// Work of one thread on a device, which can be done again.
pub(super) trait Recording: Send {
    /// What this thread asks of the device from now on is recorded, and not done.
    fn begin(&mut self) -> Result<()>;
    fn end(&mut self) -> Result<()>;
    /// Asks for all of it, on the same tensors.
    fn replay(&self) -> Result<()>;
}

/// Makes a recording; `None` where there are none.
pub(super) type Make = fn() -> Option<Box<dyn Recording>>;

/// `forward`, from its third batch of a size on from a recording. The model's weights may change in place meanwhile.
///
/// # Panics
/// As `forward`, and where a recording cannot be replayed.
pub(super) fn recorded(forward: Forward, make: Make) -> Forward {
    let recorder = RefCell::new(Recorder {
        forward,
        make,
        sizes: HashMap::new(),
        trusted: true,
    });
    Box::new(move |x| recorder.borrow_mut().run(x))
}

struct Recorder {
    forward: Forward,
    make: Make,
    sizes: HashMap<Vec<i64>, Size>,
    /// Nothing has gone wrong with a recording.
    trusted: bool,
}

enum Size {
    /// Its kernels have been compiled and chosen, which cannot be recorded.
    Seen,
    Recorded(Recorded),
}

struct Recorded {
    recording: Box<dyn Recording>,
    input: Tensor,
    output: Tensor,
}

impl Recorder {
    fn run(&mut self, x: &Tensor) -> Tensor {
        let size = x.size();
        let pixels: i64 = [0, 2, 3].iter().map(|&axis| size[axis]).product();
        if !self.trusted || pixels > MOST_PIXELS || GIVEN_UP.load(Ordering::Relaxed) {
            return (self.forward)(x);
        }
        match self.sizes.get_mut(&size) {
            Some(Size::Recorded(recorded)) => {
                // A panic is what the engine takes an error of the model's for.
                recorded.again(x).unwrap_or_else(|error| panic!("{error}"))
            }
            Some(Size::Seen) => {
                let y = (self.forward)(x);
                match self.record(x, &y) {
                    Ok(recorded) => {
                        self.sizes.insert(size, Size::Recorded(recorded));
                    }
                    Err(error) => {
                        tracing::warn!("batches of {size:?} are not recorded: {error}");
                        self.trusted = false;
                        self.sizes.clear();
                    }
                }
                y
            }
            None => {
                if self.sizes.len() < MOST_SIZES {
                    self.sizes.insert(size, Size::Seen);
                }
                (self.forward)(x)
            }
        }
    }

    /// Records the model's work on a batch like `x`, of which it makes `expected`.
    fn record(&self, x: &Tensor, expected: &Tensor) -> Result<Recorded> {
        let mut recording = (self.make)()
            .ok_or_else(|| Error::Worker("libtorch has no graphs that are known here".into()))?;
        let input = copied(x)?;
        let mut output = None;
        let recorded = recording.begin().and_then(|()| {
            output = Some(guarded(|| Ok((self.forward)(&input))));
            // Also after an error, or nothing would ever be done again.
            recording.end()
        });
        if let Err(error) = recorded {
            // Libtorch's allocator may go on asking it which memory is its.
            std::mem::forget(recording);
            GIVEN_UP.store(true, Ordering::Relaxed);
            return Err(error);
        }
        let recorded = Recorded {
            output: output.expect("it was begun")?,
            input,
            recording,
        };
        recorded.recording.replay()?;
        match recorded.output.f_allclose(expected, TOLERANCE, TOLERANCE, true)? {
            true => Ok(recorded),
            false => Err(Error::Worker("the recording makes something else".into())),
        }
    }
}

impl Recorded {
    fn again(&mut self, x: &Tensor) -> Result<Tensor> {
        self.input.f_copy_(x)?;
        self.recording.replay()?;
        // The next one is written to the same place.
        copied(&self.output)
    }
}

/// Libtorch's graph for CUDA; `None` where there is none, or where its headers were missing when this was built.
pub(super) fn cuda_graph() -> Option<Box<dyn Recording>> {
    #[cfg(libtorch_headers)]
    {
        cuda::Graph::new().map(|graph| Box::new(graph) as _)
    }
    #[cfg(not(libtorch_headers))]
    None
}

#[cfg(libtorch_headers)]
mod cuda {
    use std::ffi::{c_char, c_void};

    use super::Recording;
    use crate::Result;
    use crate::device::with_message;

    unsafe extern "C" {
        fn osdd_graph_new() -> *mut c_void;
        fn osdd_graph_free(graph: *mut c_void);
        fn osdd_graph_begin(graph: *mut c_void, message: *mut c_char, capacity: usize) -> bool;
        fn osdd_graph_end(graph: *mut c_void, message: *mut c_char, capacity: usize) -> bool;
        fn osdd_graph_replay(graph: *mut c_void, message: *mut c_char, capacity: usize) -> bool;
    }

    /// Not null.
    pub struct Graph(*mut c_void);

    // SAFETY: libtorch's object belongs to no thread.
    unsafe impl Send for Graph {}

    impl Graph {
        pub fn new() -> Option<Self> {
            // SAFETY: gives a new object, or null.
            let graph = unsafe { osdd_graph_new() };
            (!graph.is_null()).then_some(Graph(graph))
        }

        fn call(
            &self,
            function: unsafe extern "C" fn(*mut c_void, *mut c_char, usize) -> bool,
        ) -> Result<()> {
            // SAFETY: the object is there as long as this is; what is written ends within the buffer, whose last byte stays zero.
            with_message(|message, capacity| unsafe { function(self.0, message, capacity) }.then_some(()))
        }
    }

    impl Drop for Graph {
        fn drop(&mut self) {
            // SAFETY: made by `osdd_graph_new`, and freed once.
            unsafe { osdd_graph_free(self.0) };
        }
    }

    impl Recording for Graph {
        fn begin(&mut self) -> Result<()> {
            self.call(osdd_graph_begin)
        }

        fn end(&mut self) -> Result<()> {
            self.call(osdd_graph_end)
        }

        fn replay(&self) -> Result<()> {
            self.call(osdd_graph_replay)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use tch::{Device, Kind};

    use super::*;

    /// The model of these tests doubles; this is what it was given last, and what it made of it.
    static LAST: Mutex<Option<(Tensor, Tensor)>> = Mutex::new(None);
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static RECORDS: AtomicBool = AtomicBool::new(false);
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    static ALONE: Mutex<()> = Mutex::new(());

    fn model(fails: fn() -> bool) -> Forward {
        Box::new(move |x| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            assert!(!fails(), "CUDA out of memory. Tried to allocate 2.00 GiB.");
            let y = x * 2.0;
            *LAST.lock().unwrap() = Some((x.shallow_clone(), y.shallow_clone()));
            // A GPU does not do what is recorded.
            if RECORDS.load(Ordering::Relaxed) {
                let _ = y.shallow_clone().fill_(99.0);
            }
            y
        })
    }

    /// Doubles by this.
    struct Fake {
        factor: f64,
        work: Option<(Tensor, Tensor)>,
    }

    impl Recording for Fake {
        fn begin(&mut self) -> Result<()> {
            RECORDS.store(true, Ordering::Relaxed);
            Ok(())
        }

        fn end(&mut self) -> Result<()> {
            RECORDS.store(false, Ordering::Relaxed);
            ENDED.fetch_add(1, Ordering::Relaxed);
            self.work = LAST.lock().unwrap().take();
            Ok(())
        }

        fn replay(&self) -> Result<()> {
            let (x, y) = self.work.as_ref().unwrap();
            y.shallow_clone().copy_(&(x * self.factor));
            Ok(())
        }
    }

    fn right() -> Option<Box<dyn Recording>> {
        let (factor, work) = (2.0, None);
        Some(Box::new(Fake { factor, work }))
    }

    fn wrong() -> Option<Box<dyn Recording>> {
        let (factor, work) = (3.0, None);
        Some(Box::new(Fake { factor, work }))
    }

    fn batch(size: i64, value: f64) -> Tensor {
        Tensor::full([1, 3, size, 8], value, (Kind::Float, Device::Cpu))
    }

    /// How often the model itself was at work on `times` batches of this size, with results that are right.
    fn calls(forward: &Forward, size: i64, times: usize) -> usize {
        let before = CALLS.load(Ordering::Relaxed);
        let inputs: Vec<_> = (0..times).map(|i| batch(size, i as f64 / 10.0)).collect();
        let outputs: Vec<_> = inputs.iter().map(forward).collect();
        // Now, because a later one must not have changed an earlier one.
        for (input, output) in inputs.iter().zip(outputs) {
            assert_eq!(output, input * 2.0);
        }
        CALLS.load(Ordering::Relaxed) - before
    }

    #[test]
    fn the_third_batch_of_a_size_comes_from_a_recording() {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let forward = recorded(model(|| false), right);
        assert_eq!(calls(&forward, 8, 9), 3, "twice, and once for the recording");
        assert_eq!(calls(&forward, 16, 9), 3);
        assert_eq!(calls(&forward, 8, 5), 0);
        assert_eq!(calls(&forward, 1 << 18, 5), 5, "too large");
        assert_eq!(calls(&forward, 24, 5) + calls(&forward, 32, 5), 6);
        assert_eq!(calls(&forward, 40, 5), 5, "too many sizes");
    }

    #[test]
    fn a_recording_that_cannot_be_had_or_is_wrong_is_not_used() {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let none = recorded(model(|| false), || None);
        assert_eq!(calls(&none, 8, 9), 9);
        let different = recorded(model(|| false), wrong);
        assert_eq!(calls(&different, 8, 9), 10);
        assert_eq!(calls(&different, 16, 9), 9, "nor others");
        let before = ENDED.load(Ordering::Relaxed);
        let failing = recorded(model(|| RECORDS.load(Ordering::Relaxed)), right);
        assert_eq!(calls(&failing, 8, 9), 10);
        assert_eq!(ENDED.load(Ordering::Relaxed), before + 1, "it has been ended");
    }

    /// It doubles, and does not come to its end.
    struct Endless(Fake);

    static DROPPED: AtomicUsize = AtomicUsize::new(0);

    impl Drop for Endless {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Recording for Endless {
        fn begin(&mut self) -> Result<()> {
            self.0.begin()
        }

        fn end(&mut self) -> Result<()> {
            self.0.end()?;
            Err(Error::Worker("the capture was invalidated".into()))
        }

        fn replay(&self) -> Result<()> {
            self.0.replay()
        }
    }

    #[test]
    fn after_a_recording_without_an_end_nothing_is_recorded_and_it_stays() {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let endless = || -> Option<Box<dyn Recording>> {
            let (factor, work) = (2.0, None);
            Some(Box::new(Endless(Fake { factor, work })))
        };
        let forward = recorded(model(|| false), endless);
        assert_eq!(calls(&forward, 8, 9), 10);
        assert_eq!(calls(&recorded(model(|| false), right), 8, 9), 9, "nor by others");
        drop(forward);
        assert_eq!(DROPPED.load(Ordering::Relaxed), 0);
        GIVEN_UP.store(false, Ordering::Relaxed);
    }

    #[cfg(libtorch_headers)]
    #[test]
    fn libtorchs_graphs_are_found_by_their_names() {
        if crate::device::resolve(crate::device::Device::Auto).is_ok_and(|(_, place)| place.is_cuda()) {
            eprintln!("left out: there is a GPU, which a fake cannot stand for");
            return;
        }
        let fake = crate::fake_gpu::FakeGpu::installed().unwrap();
        let mut graph = cuda_graph().unwrap();
        let error = graph.replay().unwrap_err();
        assert!(error.to_string().contains("nothing was recorded"), "{error}");
        graph.begin().unwrap();
        assert_eq!(fake.capture_mode(), 1, "of this thread alone");
        graph.end().unwrap();
        graph.replay().unwrap();
        drop(graph);
        assert_eq!(fake.capture_mode(), -1, "it is destroyed");
    }
}
