"""Who may come in: holders of a key, nobody else."""

from tiled.server.protocols import InternalAuthenticator, UserSessionState


class NoLogin(InternalAuthenticator):
    """Refuses every user name and password.

    Tiled checks keys against its database only where some authenticator is configured.
    """

    def __init__(self, confirmation_message: str = "") -> None:
        self.confirmation_message = confirmation_message

    async def authenticate(self, username: str, password: str) -> UserSessionState | None:
        return None
