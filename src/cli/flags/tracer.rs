//! What can be typed about who watches RUN steps.

use super::super::gobool::GoBool;

/// Flags that decide how it is found out what a RUN step changed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "RUN steps")]
pub(in crate::cli) struct TracerFlags {
    /// Traces RUN steps and looks only at what they touched; =false walks the
    /// file system after each step instead.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(in crate::cli) use_new_run: Option<GoBool>,

    /// Who watches RUN steps: auto (default), ptrace, inotify (steps may use sudo,
    /// strace and gdb), fanotify (the same, for privileged builds) or off. For one step:
    /// STAGE:STEP=TRACER, where STAGE is a name, a number or *, and STEP the
    /// number that the log shows or words of the instruction; repeat for several.
    #[arg(long, value_name = "[STAGE:STEP=]TRACER", action = clap::ArgAction::Append)]
    pub(in crate::cli) run_tracer: Vec<String>,

    /// Looks at each file that a step opens once more when it is open, so that no
    /// thread can exchange its name meanwhile. Slower; ptrace only.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) run_tracer_strict: GoBool,

    /// Walks after each RUN and compares: full, redo or time. Turns tracing off.
    #[arg(long, alias = "snapshotMode", value_name = "MODE")]
    pub(in crate::cli) snapshot_mode: Option<String>,

    /// Walks after each traced RUN as well: fail ends the build where the walk
    /// found more than the trace, warn tells it and takes what the walk found.
    #[arg(
        long,
        value_name = "off|warn|fail",
        num_args = 0..=1,
        require_equals = true,
        default_value = "off",
        default_missing_value = "fail"
    )]
    pub(in crate::cli) verify_snapshot: String,
}
