//! How this process asks the machine for memory.

/// Has the kernel give this process small pages only, also where it gives everybody huge ones. What is left of a
/// crowd that has gone is spread thinly, and a huge page is given back as a whole or not at all.
pub(crate) fn small_pages() {
    // An error means a kernel without huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
