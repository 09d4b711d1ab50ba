//! Whether the machine was there for the measurements alone.

use std::fs;

/// Share of the processors' time above which others are worth a word.
const OTHERS: f64 = 0.05;

/// Likewise how much faster the fastest round was than the slowest.
const SPREAD: f64 = 0.1;

/// The processors' time until now, in ticks of the system's.
struct Ticks {
    /// Spent and idle.
    all: u64,
    /// Spent, here and elsewhere, or taken by the machine around this one.
    spent: u64,
    /// Spent by this process and its children.
    own: u64,
}

impl Ticks {
    fn now() -> Option<Self> {
        let read = |path| fs::read_to_string(path).ok();
        Self::parse(&read("/proc/stat")?, &read("/proc/self/stat")?)
    }

    /// From Linux's `/proc/stat` and `/proc/self/stat`.
    fn parse(system: &str, process: &str) -> Option<Self> {
        let line = system.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // User, nice, system, idle, waiting for disks, two kinds of interrupts, stolen; what follows is in the first two.
        let times = numbers(line).take(8).collect::<Option<Vec<u64>>>()?;
        let all = times.iter().sum();
        let idle = times.get(3)? + times.get(4)?;
        // The name may have spaces in it; what counts are the 14th to 17th field, and after the name comes the third.
        let (_, fields) = process.rsplit_once(')')?;
        let own = numbers(fields).skip(11).take(4).collect::<Option<Vec<u64>>>()?;
        if times.len() < 8 || own.len() < 4 {
            return None;
        }
        Some(Self {
            all,
            spent: all - idle,
            own: own.iter().sum(),
        })
    }
}

fn numbers(text: &str) -> impl Iterator<Item = Option<u64>> {
    text.split_whitespace().map(|number| number.parse().ok())
}

/// Watches what else runs.
pub(super) struct Watch(Option<Ticks>);

impl Watch {
    pub fn start() -> Self {
        Self(Ticks::now())
    }

    /// The share of the processors' time, in 0..=1, that something else has taken since the start; `None` where the system does
    /// not tell.
    pub fn others(&self) -> Option<f64> {
        share(self.0.as_ref()?, &Ticks::now()?)
    }
}

fn share(start: &Ticks, end: &Ticks) -> Option<f64> {
    let since = |count: fn(&Ticks) -> u64| count(end).saturating_sub(count(start));
    let (all, own) = (since(|ticks| ticks.all), since(|ticks| ticks.own));
    let others = since(|ticks| ticks.spent).saturating_sub(own);
    (all > 0).then(|| (others as f64 / all as f64).min(1.0))
}

/// What to know before the figures are believed: one line each.
pub(super) fn notes(others: Option<f64>, rounds: &[&[f64]]) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(others) = others.filter(|share| *share > OTHERS) {
        notes.push(format!(
            "note: something else took {:.0} % of the processors' time meanwhile; measure again when the machine is idle",
            100.0 * others
        ));
    }
    let spread = rounds.iter().map(|rounds| spread(rounds)).fold(0.0, f64::max);
    if spread > SPREAD {
        notes.push(format!(
            "note: the same measurement was up to {:.0} % faster in one round than in another; something else disturbs this machine, or the one around it",
            100.0 * spread
        ));
    }
    notes
}

/// How much faster the fastest was than the slowest, as a share of the slowest.
fn spread(rounds: &[f64]) -> f64 {
    let fastest = rounds.iter().copied().fold(f64::MIN, f64::max);
    let slowest = rounds.iter().copied().fold(f64::MAX, f64::min);
    if slowest > 0.0 {
        fastest / slowest - 1.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = "cpu  100 20 30 700 50 5 5 10 99 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
    const PROCESS: &str = "42 (a (b) c) S 1 42 42 0 -1 4194304 90 0 0 0 11 3 40 6 20 0 1 0 500 1 1";

    #[test]
    fn ticks_are_read_from_the_systems_files() {
        let ticks = Ticks::parse(SYSTEM, PROCESS).expect("ticks");
        assert_eq!((ticks.all, ticks.spent, ticks.own), (920, 170, 60));
        assert!(Ticks::parse("", PROCESS).is_none());
        assert!(Ticks::parse(SYSTEM, "42 (a) S x").is_none());
        assert!(Ticks::parse("cpu  1 2\n", PROCESS).is_none());
    }

    #[test]
    fn others_have_what_this_program_has_not_spent() {
        let ticks = |all, spent, own| Ticks { all, spent, own };
        let start = ticks(1000, 200, 50);
        assert_eq!(share(&start, &ticks(1200, 300, 100)), Some(0.25));
        assert_eq!(share(&start, &ticks(1200, 250, 100)), Some(0.0));
        // Counters of different moments can be off by a tick.
        assert_eq!(share(&start, &ticks(1200, 240, 100)), Some(0.0));
        assert_eq!(share(&start, &ticks(1000, 200, 50)), None);
    }

    #[test]
    fn notes_are_for_machines_that_are_not_quiet() {
        assert!(notes(Some(0.02), &[&[10.0, 10.5], &[]]).is_empty());
        assert!(notes(None, &[]).is_empty());
        let notes = notes(Some(0.312), &[&[10.0, 10.5], &[8.0, 12.0, 9.0]]);
        assert_eq!(notes.len(), 2);
        assert!(
            notes[0].contains("31 %") && notes[1].contains("50 %"),
            "{notes:?}"
        );
    }
}
