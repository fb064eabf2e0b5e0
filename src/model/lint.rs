//! What will work but not as intended.
