//! Checked conversions from messages to the types of the model, and back.
