//! What stacks of layers show together.
