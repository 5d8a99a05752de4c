"""Placeholder for import only."""


class EngineBusy(RuntimeError): ...


class EngineTimeout(RuntimeError): ...
