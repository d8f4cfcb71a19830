//! The packet path allocates nothing and never calls the kernel, whatever comes. Waiting for a lock would be a call; that there
//! is no lock to wait for is for clippy.toml to see to.

mod story;
#[allow(dead_code, reason = "two programs share it, and neither needs all of it")]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use allocation_counter::AllocationInfo;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

#[test]
fn no_packet_allocates() {
    for mut story in story::all().unwrap() {
        let before = story.director.totals();
        let allocated = allocation_counter::measure(|| (story.happens)(&mut story.director));
        assert_eq!(allocated, AllocationInfo::default(), "{} allocates, or frees", story.name);
        let after = story.director.totals();
        assert!((story.happened)(&before, &after), "{} did not happen: {before:?} {after:?}", story.name);
    }
}

/// The stories again, in a thread that the kernel ends at its first system call.
#[test]
#[expect(clippy::disallowed_methods, reason = "who watches the worker may sleep")]
fn no_packet_makes_a_system_call() {
    let names: Vec<_> = story::all().unwrap().iter().map(|story| story.name).collect();
    let (told, ready) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (sender, receiver) = std::sync::mpsc::channel::<PathBuf>();
    let (count, is_ready) = (told.clone(), ready.clone());
    std::thread::spawn(move || {
        let mut stories = story::all().unwrap();
        let filter = nothing_allowed().unwrap();
        sender.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        while !is_ready.load(Ordering::Acquire) {}
        seccompiler::apply_filter(&filter).unwrap();
        for story in &mut stories {
            (story.happens)(&mut story.director);
            count.fetch_add(1, Ordering::Release);
        }
        // It cannot even end. It goes when the test's process does.
        loop {
            std::hint::spin_loop();
        }
    });
    let thread = PathBuf::from("/proc").join(receiver.recv().unwrap());
    ready.store(true, Ordering::Release);
    loop {
        let done = told.load(Ordering::Acquire);
        if done == names.len() {
            return;
        }
        // The last look at the count is one after the thread has ended.
        let alive = thread.exists();
        let done = if alive { done } else { told.load(Ordering::Acquire) };
        assert!(alive, "{} makes a system call", names[done]);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A filter that ends the thread, and not the process, at any system call.
fn nothing_allowed() -> anyhow::Result<BpfProgram> {
    let rules = [].into_iter().collect();
    // An action for what matches is demanded; nothing can.
    let (otherwise, matching) = (SeccompAction::KillThread, SeccompAction::Allow);
    Ok(SeccompFilter::new(rules, otherwise, matching, std::env::consts::ARCH.try_into()?)?.try_into()?)
}
