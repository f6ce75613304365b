//! From "these paths were touched" to "this is the layer".
