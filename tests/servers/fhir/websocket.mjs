// @medplum/core looks for a global WebSocket when it is imported; Node has one from 22 on, and nothing here opens any.
globalThis.WebSocket ??= class WebSocket {};
