//! Starts the real services that tests need and stops exactly what it started
