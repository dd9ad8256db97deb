//! Keeps the threads that failure detection depends on running under load, and in memory.
//!
//! Sources: sched(7), setpriority(2), mlockall(2).

use std::io;

use tracing::debug;

/// The lowest real-time priority: ahead of every ordinary process, behind everything that an
/// administrator made real-time on purpose.
const REALTIME_PRIORITY: i32 = 1;
/// What is tried where real-time scheduling is not permitted.
const NICE: i32 = -20;

/// How the calling thread is scheduled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raised {
    /// Real-time, round robin.
    RealTime,
    /// Ordinary, with the highest weight.
    Nice,
    /// As before: neither was permitted.
    No,
}

/// Raises the calling thread as far as permitted; its children and new threads do not inherit it.
pub fn raise_thread() -> Raised {
    let raised = if set_real_time().is_ok() {
        Raised::RealTime
    } else if set_nice(NICE).is_ok() {
        Raised::Nice
    } else {
        Raised::No
    };
    debug!(?raised, "thread priority");
    raised
}

fn set_real_time() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: REALTIME_PRIORITY };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameter` is a complete sched_param that lives across the call; 0 names the
    // calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_nice(nice: i32) -> io::Result<()> {
    let thread = rustix::thread::gettid();
    rustix::process::setpriority_process(Some(thread), nice)?;
    Ok(())
}

/// Puts the calling process or thread back to ordinary scheduling; safe between fork and exec.
pub fn reset_after_fork() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameter` is a complete sched_param that lives across the call; 0 names the
    // calling thread. Both calls are plain system calls, allowed between fork and exec.
    let result = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter)
            | libc::setpriority(libc::PRIO_PROCESS, 0, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduling() -> i32 {
        // SAFETY: 0 names the calling thread; nothing is passed by reference.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn a_raised_thread_is_scheduled_as_said_and_can_be_put_back() {
        std::thread::spawn(|| {
            match raise_thread() {
                Raised::RealTime => assert_eq!(scheduling(), libc::SCHED_RR),
                Raised::Nice | Raised::No => assert_eq!(scheduling(), libc::SCHED_OTHER),
            }
            reset_after_fork().expect("lowering is always permitted");
            assert_eq!(scheduling(), libc::SCHED_OTHER);
        })
        .join()
        .expect("the thread's assertions hold");
    }
}
