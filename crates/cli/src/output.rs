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
    // A closed pipe is the reader's choice, and nothing else can be done about any other failure to print.
    let _ = writeln!(out, "{arguments}");
}
