// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which system calls the daemon has once it is ready (seccomp(2)): it starts no program, traces nobody,
//! becomes nobody else, mounts nothing, and loads nothing into the kernel.

mod refused;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use syscalls::Sysno;
use thiserror::Error;

use crate::config::SeccompSetting;

/// Who is held to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The daemon.
    Daemon,
    /// What keeps the private keys: no sockets but those that it is given, and files for reading.
    Keeper,
}

/// What both are allowed: all that the keeper is, whatever the arguments are.
const OF_BOTH: &[Sysno] = &[
    Sysno::read,
    Sysno::readv,
    Sysno::pread64,
    Sysno::write,
    Sysno::writev,
    Sysno::sendto,
    Sysno::sendmsg,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::close,
    Sysno::fcntl,
    Sysno::lseek,
    Sysno::statx,
    Sysno::fstat,
    #[cfg(not(target_arch = "aarch64"))]
    Sysno::newfstatat,
    #[cfg(target_arch = "aarch64")]
    Sysno::fstatat,
    Sysno::ppoll,
    Sysno::brk,
    Sysno::mmap,
    Sysno::munmap,
    Sysno::mremap,
    Sysno::mprotect,
    Sysno::madvise,
    Sysno::futex,
    Sysno::set_robust_list,
    Sysno::rseq,
    Sysno::gettid,
    Sysno::sched_yield,
    Sysno::sched_getaffinity,
    Sysno::exit,
    Sysno::exit_group,
    Sysno::restart_syscall,
    Sysno::tgkill,
    Sysno::sigaltstack,
    Sysno::rt_sigaction,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigreturn,
    Sysno::clock_gettime,
    Sysno::clock_nanosleep,
    Sysno::getrandom,
    Sysno::getpid,
    Sysno::getuid,
    Sysno::geteuid,
    Sysno::getgid,
    Sysno::getegid,
    Sysno::getcwd,
    Sysno::readlinkat,
    Sysno::faccessat,
    Sysno::prlimit64,
    Sysno::sysinfo,
    Sysno::uname,
    Sysno::gettimeofday,
    Sysno::nanosleep,
    #[cfg(target_arch = "x86_64")]
    Sysno::stat,
    #[cfg(target_arch = "x86_64")]
    Sysno::access,
    #[cfg(target_arch = "x86_64")]
    Sysno::readlink,
    #[cfg(target_arch = "x86_64")]
    Sysno::poll,
];

/// What the daemon is allowed besides.
const OF_DAEMON: &[Sysno] = &[
    // Descriptors: the TUN, sockets, events, files.
    Sysno::preadv,
    Sysno::preadv2,
    Sysno::pwrite64,
    Sysno::pwritev,
    Sysno::pwritev2,
    Sysno::dup,
    Sysno::dup3,
    Sysno::pipe2,
    Sysno::eventfd2,
    Sysno::timerfd_create,
    Sysno::timerfd_settime,
    Sysno::timerfd_gettime,
    Sysno::epoll_create1,
    Sysno::epoll_ctl,
    Sysno::epoll_pwait,
    Sysno::epoll_pwait2,
    Sysno::pselect6,
    // Sockets, which `socket` alone makes.
    Sysno::bind,
    Sysno::listen,
    Sysno::accept,
    Sysno::accept4,
    Sysno::connect,
    Sysno::shutdown,
    Sysno::getsockname,
    Sysno::getpeername,
    Sysno::getsockopt,
    Sysno::setsockopt,
    Sysno::socketpair,
    Sysno::sendmmsg,
    Sysno::recvmmsg,
    // Files: a reload, leases, ledgers, a cluster's directory, resolv.conf.
    Sysno::openat,
    Sysno::fstatfs,
    Sysno::statfs,
    Sysno::faccessat2,
    Sysno::getdents64,
    Sysno::mkdirat,
    Sysno::unlinkat,
    #[cfg(not(target_arch = "riscv64"))]
    Sysno::renameat,
    Sysno::renameat2,
    Sysno::fchmod,
    Sysno::fchmodat,
    Sysno::ftruncate,
    Sysno::fallocate,
    Sysno::fadvise64,
    Sysno::fsync,
    Sysno::fdatasync,
    Sysno::flock,
    // Memory, also a card's.
    Sysno::mlock,
    Sysno::mlock2,
    Sysno::munlock,
    Sysno::memfd_create,
    Sysno::membarrier,
    // Threads.
    Sysno::getcpu,
    // What time it is, who it is, what there is.
    Sysno::clock_getres,
    Sysno::getppid,
    Sysno::capget,
    Sysno::getrusage,
    // Older names, which C libraries still use where they are.
    #[cfg(target_arch = "x86_64")]
    Sysno::open,
    #[cfg(target_arch = "x86_64")]
    Sysno::lstat,
    #[cfg(target_arch = "x86_64")]
    Sysno::mkdir,
    #[cfg(target_arch = "x86_64")]
    Sysno::unlink,
    #[cfg(target_arch = "x86_64")]
    Sysno::rename,
    #[cfg(target_arch = "x86_64")]
    Sysno::chmod,
    #[cfg(target_arch = "x86_64")]
    Sysno::dup2,
    #[cfg(target_arch = "x86_64")]
    Sysno::epoll_wait,
    #[cfg(target_arch = "x86_64")]
    Sysno::select,
    #[cfg(target_arch = "x86_64")]
    Sysno::getrlimit,
    #[cfg(target_arch = "x86_64")]
    Sysno::time,
];

/// A filter can't be made or set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Setting it failed.
    #[error(transparent)]
    Set(#[from] seccompiler::Error),
    /// It can't be made for this processor.
    #[error(transparent)]
    Make(#[from] seccompiler::BackendError),
    /// What names a refused call can't be set up.
    #[error("SIGSYS: {0}")]
    Signal(std::io::Error),
}

/// Holds every thread of this process, and those to come, to the system calls of the list.
///
/// # Errors
/// [`FilterError`]: nothing has changed then.
pub fn apply(setting: SeccompSetting, process: Process) -> Result<(), FilterError> {
    let otherwise = match setting {
        SeccompSetting::Off => return Ok(()),
        SeccompSetting::Log => SeccompAction::Log,
        SeccompSetting::Kill => SeccompAction::Trap,
    };
    let (threads, list) = (new_threads()?, allow_list(otherwise, process)?);
    if setting == SeccompSetting::Kill {
        refused::name_and_end().map_err(|error| FilterError::Signal(error.into()))?;
    }
    apply_filter_all_threads(&threads)?;
    Ok(apply_filter_all_threads(&list)?)
}

fn here() -> Result<TargetArch, FilterError> {
    Ok(std::env::consts::ARCH.try_into()?)
}

/// `clone3` has its flags in memory, where no filter looks: as on kernels without it, C libraries take
/// `clone`.
fn new_threads() -> Result<BpfProgram, FilterError> {
    let rules = BTreeMap::from([(number(Sysno::clone3), Vec::new())]);
    let missing = SeccompAction::Errno(nix::libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, here()?)?;
    Ok(filter.try_into()?)
}

fn allow_list(otherwise: SeccompAction, process: Process) -> Result<BpfProgram, FilterError> {
    use nix::libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_THREAD, PR_SET_NAME, TIOCSTI};
    use nix::libc::{O_ACCMODE, O_CREAT, O_DIRECTORY, O_TMPFILE, O_TRUNC};
    let besides = match process {
        Process::Daemon => OF_DAEMON,
        Process::Keeper => &[],
    };
    let allowed = OF_BOTH.iter().chain(besides);
    let allowed = allowed.map(|call| (number(*call), Vec::new()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.collect();
    rules.insert(number(Sysno::clone3), Vec::new());
    // Threads, and no processes.
    let thread = CLONE_THREAD as u64;
    let flags = SeccompCmpOp::MaskedEq(thread);
    rules.insert(
        number(Sysno::clone),
        vec![where_argument(0, flags, thread)?],
    );
    if process == Process::Daemon {
        let families = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];
        let families = families.map(|family| where_argument(0, SeccompCmpOp::Eq, family as u64));
        let families: Result<Vec<_>, _> = families.into_iter().collect();
        rules.insert(number(Sysno::socket), families?);
        let name = where_argument(0, SeccompCmpOp::Eq, PR_SET_NAME as u64)?;
        rules.insert(number(Sysno::prctl), vec![name]);
        // A card's, the TUN's, a socket's; but nothing typed into the terminal that it was started from.
        let typed = where_argument(1, SeccompCmpOp::Ne, TIOCSTI)?;
        rules.insert(number(Sysno::ioctl), vec![typed]);
    }
    if process == Process::Keeper {
        let writing = (O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE & !O_DIRECTORY) as u64;
        let reading = |at| where_argument(at, SeccompCmpOp::MaskedEq(writing), 0);
        rules.insert(number(Sysno::openat), vec![reading(2)?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(number(Sysno::open), vec![reading(1)?]);
    }
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, here()?)?;
    Ok(filter.try_into()?)
}

fn number(call: Sysno) -> i64 {
    i64::from(call.id())
}

fn where_argument(at: u8, compared: SeccompCmpOp, with: u64) -> Result<SeccompRule, FilterError> {
    let condition = SeccompCondition::new(at, SeccompCmpArgLen::Dword, compared, with)?;
    Ok(SeccompRule::new(vec![condition])?)
}
