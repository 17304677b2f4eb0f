//! Memory of the kernels: aligned buffers and outputs that threads write side by side.

/// One cache line, so that a vector of them is aligned for 512-bit loads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes aligned to a cache line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// `bytes` zeros.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); bytes.div_ceil(64)] }
    }

    /// Grows to hold `bytes`; what was in it is of no account.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(64);
        if self.lines.len() < lines {
            self.lines = vec![Line([0; 64]); lines];
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// Address of the first byte.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// Address of the first byte, to write.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// The bytes as words of four.
    pub(crate) fn words(&self) -> &[u32] {
        #[allow(unsafe_code, reason = "any bytes are a u32, and lines are aligned to more than 4 bytes")]
        // SAFETY: the length counts whole lines of 16 words.
        unsafe {
            std::slice::from_raw_parts(self.as_ptr().cast(), self.lines.len() * 16)
        }
    }

    /// The bytes as words of four, to write.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        let words = self.lines.len() * 16;
        #[allow(unsafe_code, reason = "any bytes are a u32, and lines are aligned to more than 4 bytes")]
        // SAFETY: the length counts whole lines of 16 words.
        unsafe {
            std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), words)
        }
    }
}

/// An output that several threads fill, each its own elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedOutput {
    first: *mut f32,
    length: usize,
}

#[allow(unsafe_code, reason = "threads write disjoint elements: the one unsafe method asks its caller for that")]
// SAFETY: see `slice`.
unsafe impl Send for SharedOutput {}
#[allow(unsafe_code, reason = "as for Send")]
// SAFETY: see `slice`.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    /// Allocates a vector of `length` elements and gives it, full, to what `fill` writes.
    ///
    /// `fill` must write every element: they start out uninitialised, as zeroing a large output costs a pass over it.
    pub(crate) fn fill(length: usize, fill: impl FnOnce(Self)) -> Vec<f32> {
        let mut values: Vec<f32> = Vec::with_capacity(length);
        fill(Self { first: values.as_mut_ptr(), length });
        #[allow(unsafe_code, reason = "the products write every tile of the output")]
        // SAFETY: `length` is the capacity, and `fill` has written every element.
        unsafe {
            values.set_len(length);
        }
        values
    }

    /// The elements `start..start + length`.
    ///
    /// # Safety
    /// No other thread may hold a slice over any of them at the same time.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "disjointness is the caller's to know")]
    pub(crate) unsafe fn slice(&self, start: usize, length: usize) -> &mut [f32] {
        assert!(start + length <= self.length, "a tile lies outside its output");
        // SAFETY: in bounds by the assertion; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), length) }
    }
}
