//! Tests of the source itself: rooms, licences, and documents that follow the code.

#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod documentation;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod units;
