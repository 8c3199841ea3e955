"""What one cycle does, in order: allocate, consolidation, reclaim, preempt, stale gangs."""
