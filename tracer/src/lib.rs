//! Runs one command and tells which paths it may have changed.
