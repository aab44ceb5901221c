"""asyncio: the same names and the same verbs, awaited."""

__all__: list[str] = []
