//! Mirrors of large messages in which CloudEvents stay encoded.
