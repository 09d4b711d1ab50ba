//! The metrics of the Python package pyiqa, in a Python process of the user's.

use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use osdd::frame::Frame;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::metric::{Better, Column, Metric};
use crate::{interrupt, picture, report};

const SCRIPT: &str = include_str!("pyiqa.py");
/// How often a wait for Python looks for Ctrl-C.
const POLL: Duration = Duration::from_millis(50);
/// Lines of Python's standard error that are kept to say why it ended.
const KEPT_LINES: usize = 20;

/// A Python with pyiqa's metrics loaded, waiting for images.
pub(super) struct Pyiqa {
    python: PathBuf,
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    /// Gives the last lines of standard error once the process has ended.
    complaints: Option<JoinHandle<VecDeque<String>>>,
    names: Vec<String>,
    /// Metrics about which a warning has been given.
    warned: HashSet<String>,
    /// Where the images are that Python reads.
    folder: TempDir,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Greeting {
    Ready { metrics: Vec<Loaded> },
    Trouble { kind: String, error: String },
}

#[derive(Deserialize)]
struct Loaded {
    name: String,
    lower_better: bool,
    needs_reference: bool,
}

#[derive(Serialize)]
struct Request<'a> {
    image: &'a Path,
    reference: Option<&'a Path>,
}

#[derive(Deserialize)]
struct Scores {
    values: Vec<Option<f64>>,
    errors: Vec<Option<String>>,
}

impl Pyiqa {
    /// Starts `python` and loads the metrics `names`, downloading their weights where pyiqa does not have them yet.
    ///
    /// # Errors
    /// The Python cannot be run, it has no pyiqa, or a metric is unknown or cannot be loaded; or the user asked to stop.
    pub fn start(python: &Path, device: &str, names: &[String]) -> Result<(Self, Vec<Column>)> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let child = Command::new(python)
            .args(["-c", SCRIPT, device])
            .args(names)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is ours to handle; Python would print where it was.
            .process_group(0)
            .spawn();
        let mut child = child.with_context(|| {
            format!(
                "cannot run {}; name the Python that has pyiqa: --pyiqa=PYTHON",
                python.display()
            )
        })?;
        let (send, answers) = mpsc::channel();
        let stdout = child.stdout.take().context("Python has no standard output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = child.stderr.take().context("Python has no standard error")?;
        let complaints = std::thread::spawn(move || {
            let mut kept = VecDeque::new();
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                kept.push_back(String::from_utf8_lossy(&line).into_owned());
                if kept.len() > KEPT_LINES {
                    kept.pop_front();
                }
            }
            kept
        });
        let mut pyiqa = Self {
            python: python.to_owned(),
            requests: child.stdin.take(),
            child,
            answers,
            complaints: Some(complaints),
            names: names.to_vec(),
            warned: HashSet::new(),
            folder,
        };
        let columns = pyiqa.greet()?;
        Ok((pyiqa, columns))
    }

    fn greet(&mut self) -> Result<Vec<Column>> {
        report::note("pyiqa loads its metrics; at first use it downloads their weights");
        let answer = self.answer()?;
        let python = self.python.display();
        match serde_json::from_str(&answer).with_context(|| format!("{python} answered '{answer}'"))? {
            Greeting::Ready { metrics } => Ok(metrics.into_iter().map(column).collect()),
            Greeting::Trouble { kind, error } if kind == "import" => {
                bail!("{python} cannot import pyiqa ({error}); install it: {python} -m pip install pyiqa")
            }
            Greeting::Trouble { kind, error } if kind == "unknown" => bail!(
                "pyiqa has no metric '{error}'; it lists them: {python} -c 'import pyiqa; print(pyiqa.list_models())'"
            ),
            Greeting::Trouble { kind: name, error } => bail!(
                "pyiqa cannot load {name} ({error}); let it download the weights where there is a network: {python} -c \
                 'import pyiqa; pyiqa.create_metric(\"{name}\")'"
            ),
        }
    }

    /// One value for each metric; `None` where a metric needs a truth that is not there, or failed, which is told once.
    ///
    /// # Errors
    /// Python ended, or the user asked to stop.
    pub fn score(&mut self, frame: &Frame, truth: Option<&Frame>) -> Result<Vec<Option<f64>>> {
        let image = self.store(frame, "image.png")?;
        let reference = truth
            .map(|truth| self.store(truth, "reference.png"))
            .transpose()?;
        let mut request = serde_json::to_vec(&Request {
            image: &image,
            reference: reference.as_deref(),
        })?;
        request.push(b'\n');
        // A pipe that is broken shows in the answer that does not come.
        if let Some(requests) = &mut self.requests {
            let _ = requests.write_all(&request).and_then(|()| requests.flush());
        }
        let answer = self.answer()?;
        let scores: Scores =
            serde_json::from_str(&answer).with_context(|| format!("pyiqa answered '{answer}'"))?;
        for (name, error) in self.names.iter().zip(scores.errors) {
            if let Some(error) = error.filter(|_| self.warned.insert(name.clone())) {
                report::warning(format_args!("pyiqa gives no {name} for some images: {error}"));
            }
        }
        Ok(scores.values)
    }

    fn store(&self, frame: &Frame, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        let image = picture::from_frame(frame.clone(), false)?;
        image
            .save(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn answer(&mut self) -> Result<String> {
        loop {
            interrupt::check()?;
            match self.answers.recv_timeout(POLL) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!(self.obituary()),
            }
        }
    }

    /// Why the process has ended.
    fn obituary(&mut self) -> String {
        let status = self
            .child
            .wait()
            .map_or("?".to_owned(), |status| status.to_string());
        let lines = self.complaints.take().and_then(|thread| thread.join().ok());
        let last = lines
            .unwrap_or_default()
            .into_iter()
            .rfind(|line| !line.trim().is_empty());
        format!(
            "pyiqa stopped ({status}): {}; see whether it works alone: {} -c 'import pyiqa'",
            last.as_deref().unwrap_or("it said nothing").trim(),
            self.python.display()
        )
    }
}

impl Drop for Pyiqa {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn column(metric: Loaded) -> Column {
    let better = if metric.lower_better {
        Better::Lower
    } else {
        Better::Higher
    };
    // Of those that go to 100 rather than to 1.
    let digits = if metric.name.starts_with("musiq") { 2 } else { 4 };
    let own = Metric::ALL.iter().any(|own| own.column().key == metric.name);
    let (key, name) = if own {
        (
            format!("pyiqa_{}", metric.name),
            format!("{} pyiqa", metric.name.to_uppercase()),
        )
    } else {
        (metric.name.clone(), metric.name.to_uppercase())
    };
    Column::new(&key, &name, Some(better), metric.needs_reference, digits)
}
