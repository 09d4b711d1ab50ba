//! How libtorch's threads wait for each other.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Turns of the waiting loop before a thread sleeps. libgomp's own default, 300,000, is a little faster on an idle machine
/// (by 5 % here) and half as fast where another process wants a core; 10,000 is worse there than either, and none at all
/// takes half the speed of an idle machine.
const SPIN_COUNT: &str = "1000";

/// Starts this program again with a shorter wait, unless the user has chosen one. libgomp reads its settings when it is
/// loaded, before `main`, so they cannot be changed any other way.
pub(crate) fn share_the_cores() {
    let chosen = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];
    if chosen.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "osdd".into());
    // Returns only if it fails: then the program works all the same.
    let error = Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env("GOMP_SPINCOUNT", SPIN_COUNT)
        .exec();
    tracing::debug!("threads wait longer than they should: {error}");
}
