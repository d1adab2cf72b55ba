//! What goes to standard output.

use std::io::Write as _;

/// Prints a line, like `println!`, but for a reader that has gone (`| head`): the work and the files go on.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::line(format_args!($($argument)*))
    };
}

pub(crate) use say;

pub(crate) fn line(arguments: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{arguments}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("error: cannot print: {error}");
        std::process::exit(2);
    }
}
