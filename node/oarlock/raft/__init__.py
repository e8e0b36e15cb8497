"""The consensus algorithm, pure: no clock, no disk, no network, no asyncio. Values in, effects out."""
