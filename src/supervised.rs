//! A child process that ends when this process ends, whatever ends it.
//!
//! Between us and the child stands a small shell script that holds the reading end of a pipe. When the pipe closes, because we
//! asked for it or because we were killed with no chance to do anything, the script stops the child, removes its directory and
//! kills what the child left running. It signals nothing but what it started: as the parent of the child it knows that the process
//! id is still the child's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const SCRIPT: &str = include_str!("supervised.sh");

/// A running child. Dropping it stops the child and waits for its end, at most [`Options::grace`] and a moment.
#[derive(Debug)]
pub struct Supervised {
    pid: u32,
    supervisor: Child,
    commands: Option<ChildStdin>,
    exit: Arc<Exit>,
}

#[derive(Debug)]
pub struct Options {
    /// Receives what the child writes to its standard output and standard error.
    pub log: File,
    /// Removed with all it holds once the child has ended and this process let go of it.
    pub cleanup: Option<PathBuf>,
    /// How the child is asked to end. A shell starts its children with `Interrupt` and `Quit` ignored: these two are only for
    /// programs that install their own handlers.
    pub stop_signal: Signal,
    /// How long the child may take to end before it is killed; whole seconds, rounded up.
    pub grace: Duration,
    /// User and group id to run as. Needs root.
    pub run_as: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Quit,
    Terminate,
    Kill,
    Stop,
    Continue,
}

/// How the child ended, once it has.
#[derive(Debug, Default)]
struct Exit {
    status: Mutex<Option<i32>>,
    changed: Condvar,
}

impl Options {
    /// Terminate, then kill after five seconds; nothing to remove; the same user.
    #[must_use]
    pub fn logging_to(log: File) -> Self {
        Self { log, cleanup: None, stop_signal: Signal::Terminate, grace: Duration::from_secs(5), run_as: None }
    }
}

impl Supervised {
    /// Starts `command` with its program, arguments, working directory and the variables that were set on it. Its standard
    /// input is empty and its output goes to the log, whatever was set on it.
    ///
    /// A program that cannot be run is no error here: it has ended with status 126 or 127, and the log says why.
    pub fn spawn(command: &Command, options: Options) -> io::Result<Self> {
        let mut supervisor = shell_for(command, options).spawn()?;
        let commands = supervisor.stdin.take();
        let mut lines = BufReader::new(supervisor.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let pid = match read_pid(&mut lines) {
            Ok(pid) => pid,
            Err(error) => {
                drop(commands);
                supervisor.wait()?;
                return Err(error);
            }
        };
        let exit = Arc::new(Exit::default());
        let observed = Arc::clone(&exit);
        thread::Builder::new().name("supervised".to_owned()).spawn(move || observed.watch(lines))?;
        Ok(Self { pid, supervisor, commands, exit })
    }

    /// The process id of the child itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the child a signal. To a child that has ended this does nothing.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.tell(signal.name())
    }

    /// The exit status, or 128 plus the number of the signal that ended the child; `None` while it runs.
    pub fn exit_status(&self) -> Option<i32> {
        *self.exit.lock()
    }

    /// Waits until the child ends by itself.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        let status = self.exit.lock();
        let (status, _) = self
            .exit
            .changed
            .wait_timeout_while(status, limit, |status| status.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        *status
    }

    /// Stops the child, waits for its end and removes its directory.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    /// Stops the child and waits for its end, but leaves its directory, so that it can be started there again.
    pub fn stop_keeping_files(mut self) -> io::Result<()> {
        self.tell("keep")?;
        self.end()
    }

    fn tell(&mut self, word: &str) -> io::Result<()> {
        match &mut self.commands {
            Some(commands) => writeln!(commands, "{word}"),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        drop(self.commands.take());
        self.supervisor.wait().map(|_| ())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // There is nobody left to tell; the supervisor goes on by itself in any case.
        let _ = self.end();
    }
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

impl Exit {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<i32>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, lines: BufReader<ChildStdout>) {
        for line in lines.lines().map_while(Result::ok) {
            let status = line.strip_prefix("exit ").and_then(|status| status.parse().ok());
            if status.is_some() {
                *self.lock() = status;
                self.changed.notify_all();
            }
        }
        // The supervisor is gone: whatever became of the child, nobody waits for it any longer.
        self.lock().get_or_insert(-1);
        self.changed.notify_all();
    }
}

fn shell_for(command: &Command, options: Options) -> Command {
    let grace = options.grace.as_secs() + u64::from(options.grace.subsec_nanos() > 0);
    let cleanup = options.cleanup.unwrap_or_default();
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", SCRIPT, "supervisor", options.stop_signal.name()])
        .arg(grace.to_string())
        .arg(cleanup)
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(options.log)
        // Its own group, so that an interrupt at the terminal reaches us alone and the child ends in our order.
        .process_group(0);
    for (name, value) in command.get_envs() {
        set_variable(&mut shell, name, value);
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    if let Some(id) = options.run_as {
        shell.uid(id).gid(id);
    }
    shell
}

fn set_variable(command: &mut Command, name: &OsStr, value: Option<&OsStr>) {
    match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    };
}

fn read_pid(lines: &mut BufReader<ChildStdout>) -> io::Result<u32> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    line.trim().parse().map_err(|_| io::Error::other("the supervisor of a child process did not start"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use tempfile::TempDir;

    use super::*;

    const SECONDS: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn log_in(directory: &Path) -> File {
        File::create(directory.join("log")).unwrap()
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < SECONDS, "not within {SECONDS:?}: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_running(pid: &str) -> bool {
        // A zombie has ended; only its parent has not asked yet.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            return !stat.contains(") Z ");
        }
        if Path::new("/proc/self/stat").exists() {
            return false;
        }
        let output = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
        let state = String::from_utf8(output.stdout).unwrap();
        !state.trim().is_empty() && !state.starts_with('Z')
    }

    #[test]
    fn the_exit_status_and_the_output_of_the_child_are_known() {
        let directory = TempDir::new().unwrap();
        let mut command = shell("echo out $NAME; echo err >&2; exit 7");
        command.env("NAME", "x y");
        let child = Supervised::spawn(&command, Options::logging_to(log_in(directory.path()))).unwrap();
        assert_eq!(child.wait(SECONDS), Some(7));
        child.stop().unwrap();
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        assert_eq!(log, "out x y\nerr\n");
    }

    #[test]
    fn a_program_that_does_not_exist_ends_with_127() {
        let directory = TempDir::new().unwrap();
        let command = Command::new("/nonexistent/program");
        let child = Supervised::spawn(&command, Options::logging_to(log_in(directory.path()))).unwrap();
        assert_eq!(child.wait(SECONDS), Some(127));
    }

    #[test]
    fn a_stopped_child_leaves_neither_grandchildren_nor_its_directory() {
        let logs = TempDir::new().unwrap();
        let files = TempDir::new().unwrap();
        let pid_file = files.path().join("grandchild");
        let mut command = shell("sleep 600 & echo $! >grandchild; wait");
        command.current_dir(files.path());
        let options = Options { cleanup: Some(files.path().to_owned()), ..Options::logging_to(log_in(logs.path())) };
        let child = Supervised::spawn(&command, options).unwrap();
        eventually("the grandchild starts", || fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')));
        let grandchild = fs::read_to_string(&pid_file).unwrap();
        let pid = child.pid().to_string();
        child.stop().unwrap();
        assert!(!is_running(&pid));
        eventually("the grandchild ends", || !is_running(grandchild.trim()));
        assert!(!files.path().exists());
    }

    #[test]
    fn a_child_that_ignores_its_stop_signal_is_killed_after_the_grace() {
        let logs = TempDir::new().unwrap();
        let options = Options { grace: Duration::from_secs(1), ..Options::logging_to(log_in(logs.path())) };
        let child = Supervised::spawn(&shell("trap '' TERM; while :; do sleep 1; done"), options).unwrap();
        let pid = child.pid().to_string();
        let start = Instant::now();
        child.stop().unwrap();
        assert!(!is_running(&pid));
        assert!(start.elapsed() < SECONDS);
    }

    #[test]
    fn signals_reach_the_child_and_files_can_be_kept() {
        let logs = TempDir::new().unwrap();
        let files = TempDir::new().unwrap();
        let options = Options { cleanup: Some(files.path().to_owned()), ..Options::logging_to(log_in(logs.path())) };
        let mut child = Supervised::spawn(&shell("sleep 600"), options).unwrap();
        assert_eq!(child.wait(Duration::ZERO), None);
        child.signal(Signal::Kill).unwrap();
        assert_eq!(child.wait(SECONDS), Some(137));
        child.stop_keeping_files().unwrap();
        assert!(files.path().exists());
    }

    /// Killing the test process itself would end the test, so a second shell stands for it: it holds the pipe and is killed.
    #[test]
    fn a_kill_9_of_the_owner_ends_the_child_and_removes_its_directory() {
        let files = TempDir::new().unwrap();
        let pid_file = files.path().join("child");
        let owner_script = r#"mkfifo "$2" && { sh -c "$1" supervisor TERM 5 "$3" sleep 600 <"$2" >"$4" & }
            exec 4>"$2"; exec sleep 600 0</dev/null"#;
        let held = TempDir::new().unwrap();
        let mut owner = Command::new("sh");
        owner
            .args(["-c", owner_script, "owner", SCRIPT])
            .arg(held.path().join("pipe"))
            .arg(files.path())
            .arg(&pid_file)
            // The supervisor kills its group at the end: it may not be ours.
            .process_group(0)
            .stderr(Stdio::null());
        let mut owner = owner.spawn().unwrap();
        eventually("the child starts", || fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')));
        let child = fs::read_to_string(&pid_file).unwrap();
        assert!(is_running(child.trim()));
        owner.kill().unwrap();
        owner.wait().unwrap();
        eventually("the child ends", || !is_running(child.trim()));
        eventually("the directory goes", || !files.path().exists());
    }
}
