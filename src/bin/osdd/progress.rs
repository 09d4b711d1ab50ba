//! How far the work is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report;

const LINE_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Progress {
    label: String,
    /// What `update` counts, such as "frames".
    unit: &'static str,
    total: Option<u64>,
    started: Instant,
    next_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `total` is in whatever measure of work `update` is given: nanoseconds of video, images.
    pub fn new(label: String, unit: &'static str, total: Option<u64>) -> Self {
        let bar = (std::io::stderr().is_terminal() && !report::quiet()).then(|| {
            let template = match total {
                Some(_) => "{prefix} {wide_bar:.cyan/dim} {percent:>3} %  {msg}",
                None => "{prefix} {spinner} {msg}, {elapsed}",
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5));
            bar.set_style(style);
            bar.set_prefix(label.clone());
            bar.set_message(format!("0 {unit}"));
            bar
        });
        let now = Instant::now();
        Self {
            label,
            unit,
            total,
            started: now,
            next_line: now + LINE_EVERY,
            bar,
        }
    }

    /// `done` of `total`, after `count` units.
    pub fn update(&mut self, done: u64, count: u64) {
        let rate = self.rate(count);
        if let Some(bar) = &self.bar {
            let left = self
                .left(done)
                .map_or(String::new(), |left| format!(", {} left", HumanDuration(left)));
            bar.set_message(format!("{count} {}, {rate:.1} {}/s{left}", self.unit, self.unit));
            bar.set_position(self.total.map_or(done, |total| done.min(total)));
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            let percent = match self.total {
                Some(total) if total > 0 => {
                    format!("{:.0} %, ", 100.0 * done.min(total) as f64 / total as f64)
                }
                _ => String::new(),
            };
            report::note(format_args!(
                "{}: {percent}{count} {}, {rate:.1} {}/s",
                self.label, self.unit, self.unit
            ));
        }
    }

    /// What the work is called.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A line above the bar.
    pub fn line(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Takes the bar away and gives the mean rate in units per second.
    pub fn finish(self, count: u64) -> f64 {
        self.rate(count)
    }

    /// From the mean rate so far: videos are steady, and an estimate from the last moments jumps.
    fn left(&self, done: u64) -> Option<Duration> {
        let left = self.total?.checked_sub(done)?;
        (done > 0).then(|| self.started.elapsed().mul_f64(left as f64 / done as f64))
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.started.elapsed().as_secs_f64().max(1e-6)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
