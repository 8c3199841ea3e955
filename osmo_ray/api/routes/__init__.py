"""Routes by noun; each module has `routes(services) -> APIRouter`."""
