//! The library against its reference and against networks that break, in one program.

mod hub;
mod image_processor;
mod library_doc;
mod options;
mod parity;
