//! An access port of a switch: joins two TAP devices, of which one carries frames with a VLAN's tags and the other without.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use lab::vlan::{Tag, tagged, untagged};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Joins two TAP devices, of which one carries frames with a VLAN's tags and the other without.
#[derive(Debug, Parser)]
struct Arguments {
    /// The device to make for the side with tags.
    #[arg(long)]
    trunk: String,
    /// The device to make for the side without.
    #[arg(long)]
    access: String,
    /// The tags, the outer one first, as 8100:10.
    #[arg(required = true)]
    tags: Vec<Tag>,
}

/// The longest frame there is.
const LONGEST: usize = 65_535 + 22;

fn make(name: &str) -> Result<Arc<SyncDevice>> {
    let device = DeviceBuilder::new().name(name).layer(Layer::L2).enable(false).build_sync();
    device.map(Arc::new).with_context(|| format!("cannot make the TAP device {name}; are we root?"))
}

fn main() -> Result<()> {
    let Arguments { trunk, access, tags } = Arguments::parse();
    let (trunk, access) = (make(&trunk)?, make(&access)?);
    println!("ready");
    let inward = {
        let (trunk, access, tags) = (trunk.clone(), access.clone(), tags.clone());
        std::thread::spawn(move || carry(&access, &trunk, |frame| Some(tagged(frame, &tags))))
    };
    carry(&trunk, &access, |frame| untagged(frame, &tags))?;
    inward.join().map_err(|_| anyhow!("a thread has panicked"))?
}

/// Hands on what is received, for as long as that can be.
fn carry(from: &SyncDevice, to: &SyncDevice, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<()> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = from.recv(&mut buffer).context("cannot read from a TAP device")?;
        if let Some(frame) = buffer.get(..length).and_then(&change) {
            // A device that is down takes nothing.
            let _ = to.send(&frame);
        }
    }
}
