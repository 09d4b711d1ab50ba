//! What a run says and leaves behind: a live line, `log.csv`, `losses.svg`, `scores.csv`, `samples.png`.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use osdd::data::Image8;
use osdd::train::{Progress, Score};

use crate::report;

/// Iterations that one line stands for.
const LINE_EVERY: u64 = 50;

/// Names and sums of what is averaged over a line.
type Sums = Vec<(&'static str, f64)>;

pub(super) struct Log {
    dir: PathBuf,
    csv: File,
    scores: File,
    /// Columns of `log.csv` are known with the first step.
    has_header: bool,
    total: u64,
    bar: Option<ProgressBar>,
    sums: Sums,
    count: u64,
    images: u64,
    waited: Duration,
    since: Instant,
    skipped: u64,
    /// Mean rate of the whole run, for the time left.
    started: Instant,
    first: u64,
}

impl Log {
    /// Opens the files in `dir`; of a run that goes on at iteration `first`, what came later is dropped.
    pub fn open(dir: &Path, total: u64, first: u64) -> anyhow::Result<Self> {
        let csv = continued(&dir.join("log.csv"), first)?;
        let has_header = csv.metadata().is_ok_and(|m| m.len() > 0);
        let bar = (std::io::stderr().is_terminal() && !report::quiet()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(2));
            let style = ProgressStyle::with_template("{pos}/{len}  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Ok(Log {
            dir: dir.to_owned(),
            csv,
            scores: continued(&dir.join("scores.csv"), first)?,
            has_header,
            total,
            bar,
            sums: Sums::new(),
            count: 0,
            images: 0,
            waited: Duration::ZERO,
            since: Instant::now(),
            skipped: 0,
            started: Instant::now(),
            first,
        })
    }

    pub fn step(&mut self, progress: &Progress) {
        self.skipped += u64::from(progress.skipped);
        self.images += progress.images;
        self.waited += progress.waited;
        // What is not finite was skipped and is counted as such; it would hide all other values of the line.
        if !progress.skipped {
            self.count += 1;
            let values = [("loss", progress.total), ("grad_norm", progress.grad_norm)];
            for (name, value) in values.into_iter().chain(progress.terms.iter().copied()) {
                match self.sums.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, sum)) => *sum += value,
                    None => self.sums.push((name, value)),
                }
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_position(progress.iteration);
        }
        let last = progress.iteration == self.total;
        if (progress.iteration.is_multiple_of(LINE_EVERY) || last) && self.count > 0 {
            self.line(progress);
        }
    }

    /// Time that was not spent on training.
    pub fn leave_out(&mut self, time: Duration) {
        self.since += time;
        self.started += time;
    }

    fn line(&mut self, progress: &Progress) {
        let count = self.count as f64;
        let means: Sums = self.sums.iter().map(|(name, sum)| (*name, sum / count)).collect();
        let seconds = self.since.elapsed().as_secs_f64();
        let (rate, wait) = (
            self.images as f64 / seconds,
            100.0 * self.waited.as_secs_f64() / seconds,
        );
        self.row(progress, &means, rate, wait);

        let done = (progress.iteration - self.first) as f64;
        let left = self
            .started
            .elapsed()
            .mul_f64((self.total - progress.iteration) as f64 / done);
        let terms: Vec<String> = means
            .iter()
            .map(|(name, mean)| format!("{name} {mean:.5}"))
            .collect();
        let text = format!(
            "{}  lr {:.2e}  {rate:.1} images/s  waited for data {wait:.0} %  {} left{}",
            terms.join("  "),
            progress.learning_rate,
            HumanDuration(left),
            match self.skipped {
                0 => String::new(),
                n => format!("  {n} steps skipped"),
            }
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => report::note(format_args!("{}/{}  {text}", progress.iteration, self.total)),
        }
        self.sums.clear();
        (self.count, self.images, self.waited, self.since) = (0, 0, Duration::ZERO, Instant::now());
    }

    fn row(&mut self, progress: &Progress, means: &Sums, rate: f64, wait: f64) {
        // A full disk must not stop a run that can still be saved elsewhere.
        if !self.has_header {
            let names: Vec<&str> = means.iter().map(|(name, _)| *name).collect();
            let _ = writeln!(
                self.csv,
                "iteration,learning_rate,images_per_second,data_wait_percent,skipped,{}",
                names.join(",")
            );
            self.has_header = true;
        }
        let values: Vec<String> = means.iter().map(|(_, mean)| format!("{mean:.6}")).collect();
        let _ = writeln!(
            self.csv,
            "{},{:.4e},{rate:.2},{wait:.1},{},{}",
            progress.iteration,
            progress.learning_rate,
            self.skipped,
            values.join(",")
        );
    }

    fn say(&self, text: std::fmt::Arguments) {
        match &self.bar {
            Some(bar) => bar.suspend(|| report::note(text)),
            None => report::note(text),
        }
    }

    pub fn scores(&mut self, iteration: u64, scores: &[Score]) {
        if self.scores.metadata().is_ok_and(|m| m.len() == 0) {
            let _ = writeln!(self.scores, "iteration,set,input_psnr,output_psnr,output_mae");
        }
        for score in scores {
            let gain = score.output_psnr - score.input_psnr;
            self.say(format_args!(
                "  {}: {:.3} dB, input {:.3}, gain {gain:+.3}",
                score.name, score.output_psnr, score.input_psnr
            ));
            let _ = writeln!(
                self.scores,
                "{iteration},{},{:.4},{:.4},{:.4}",
                score.name, score.input_psnr, score.output_psnr, score.output_mae
            );
        }
    }

    /// Draws the losses so far, and writes the picture of samples.
    pub fn pictures(&self, samples: Option<Image8>) {
        if let Err(error) = self.draw(samples) {
            report::warning(format_args!("no pictures of the run: {error:#}"));
        }
    }

    fn draw(&self, samples: Option<Image8>) -> anyhow::Result<()> {
        if let Some(sheet) = samples {
            let path = self.dir.join("samples.png");
            let (width, height) = (sheet.width as u32, sheet.height as u32);
            image::save_buffer(&path, &sheet.data, width, height, image::ColorType::Rgb8)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        super::plot::losses(&self.dir.join("log.csv"), &self.dir.join("losses.svg"))
    }
}

/// A CSV file to append to, without the rows of iterations after `last`.
fn continued(path: &Path, last: u64) -> anyhow::Result<File> {
    let cannot_write = || format!("cannot write {}", path.display());
    if let Ok(text) = fs::read_to_string(path) {
        let iteration = |line: &str| line.split(',').next().and_then(|field| field.parse::<u64>().ok());
        let kept = text
            .lines()
            .filter(|line| last > 0 && iteration(line).is_none_or(|i| i <= last));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        fs::write(path, kept).with_context(cannot_write)?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(cannot_write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_after_the_checkpoint_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.csv");
        fs::write(&path, "iteration,loss\n50,1\n100,2\n150,3\n").unwrap();
        writeln!(continued(&path, 100).unwrap(), "150,4").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "iteration,loss\n50,1\n100,2\n150,4\n"
        );
        continued(&path, 0).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
