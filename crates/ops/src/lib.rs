//! Fused CPU operations behind one function each.
