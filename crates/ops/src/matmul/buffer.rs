//! Aligned memory of the kernels.

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
