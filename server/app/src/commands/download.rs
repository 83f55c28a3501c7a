#[derive(Debug, clap::Args)]
#[command(after_help="Examples:\n  longhaul x")]
pub struct Args {}
impl Args { pub(crate) fn run(self) -> anyhow::Result<()> { Ok(()) } }
