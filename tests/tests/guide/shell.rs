//! The one shell of a page, with everything that is started in it.

use std::{
    io::{BufRead, BufReader, PipeReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Ends what a command has printed; before it stands the exit code behind another such byte.
const MARK: u8 = 1;

pub struct Shell {
    process: Child,
    input: ChildStdin,
    /// Standard output and standard error, as they came.
    output: BufReader<PipeReader>,
}

impl Shell {
    /// bash, in a directory.
    pub fn start(directory: &Path, environment: &[(&str, String)]) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut process = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(directory)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().expect("a pipe"))
            .stderr(writer)
            .spawn()
            .expect("bash");
        let input = process.stdin.take().expect("piped");
        Self { process, input, output: BufReader::new(reader) }
    }

    /// What a command prints. It has no input of its own, and leaves what it sets to those after it.
    pub fn run(&mut self, directory: &Path, command: &str) -> String {
        let script = directory.join(".command");
        std::fs::write(&script, format!("{command}\n")).expect("a file");
        let line = format!(". {} </dev/null; printf '\\001%d\\001' $?\n", script.display());
        self.input.write_all(line.as_bytes()).expect("the shell reads");
        let (mut printed, mut code) = (Vec::new(), Vec::new());
        self.output.read_until(MARK, &mut printed).expect("its output");
        self.output.read_until(MARK, &mut code).expect("its exit code");
        assert_eq!(code.pop(), Some(MARK), "the shell ended: {}", String::from_utf8_lossy(&printed));
        printed.pop();
        String::from_utf8_lossy(&printed).into_owned()
    }
}

impl Drop for Shell {
    /// With all that runs in its background.
    fn drop(&mut self) {
        let _ = self.input.write_all(b"kill -KILL $(jobs -p)\nexit\n");
        let _ = self.process.wait();
    }
}
