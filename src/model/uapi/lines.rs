//! Bytes from a socket, cut into lines, in a buffer that never moves and is cleared when it is dropped.

use zeroize::Zeroizing;

use super::MAX_LINE;

/// A line is longer than [`MAX_LINE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {MAX_LINE} bytes")]
pub struct LineTooLong;

/// Cuts what a socket delivers into lines. Does no I/O: read into [`Self::space`], say how much with
/// [`Self::filled`], then take lines until there is none.
#[derive(Debug)]
pub struct Lines {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            buffer: Zeroizing::new(vec![0; 8 * MAX_LINE]),
            start: 0,
            end: 0,
        }
    }
}

impl Lines {
    /// Where to read the next bytes into: never empty once [`Self::next`] gave `Ok(None)`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes were read into [`Self::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// Whether part of a line is waiting for its end.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next whole line without its end, or `None` until more was read.
    ///
    /// # Errors
    /// When the line is too long; there is no way on from there.
    #[expect(
        clippy::should_implement_trait,
        reason = "a line borrows the buffer, an Iterator's item could not"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let length = waiting.iter().position(|byte| *byte == b'\n');
        if length.unwrap_or(waiting.len()) > MAX_LINE {
            return Err(LineTooLong);
        }
        let Some(length) = length else { return Ok(None) };
        let from = self.start;
        self.start += length + 1;
        Ok(self.buffer.get(from..from + length))
    }
}
