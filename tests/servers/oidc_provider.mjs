// A real OpenID Connect provider for tests: node oidc_provider.mjs FOLDER CONFIG.json
// FOLDER is where npm put oidc-provider. It prints "ready" when it listens on CONFIG's issuer. Any password is right
// but "wrong"; whoever signs in gets the roles that CONFIG gives to that name.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [folder, file] = process.argv.slice(2);
const { Provider, errors } = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`).href);
const told = JSON.parse(readFileSync(file, 'utf8'));

const profile = (name) => ({
  sub: `sub-${name}`,
  preferred_username: name,
  roles: told.roles[name] ?? [],
  email: `${name}@example.org`,
  email_verified: name !== 'mallory',
});
const findAccount = (ctx, id) => ({ accountId: id, claims: () => ({ ...profile(id), sub: id }) });

const provider = new Provider(told.issuer, {
  clients: told.clients,
  jwks: { keys: told.keys },
  findAccount,
  claims: { openid: ['sub'], profile: ['preferred_username', 'roles'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  scopes: ['openid', 'offline_access', 'api'],
  pkce: { required: () => false },
  cookies: { keys: ['only for tests'] },
  extraClientMetadata: { properties: [] },
  extraTokenClaims: (ctx, token) => profile(token.accountId ?? ''),
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  ttl: { IdToken: told.life, AccessToken: told.life, DeviceCode: 600, Grant: 86400, Session: 86400, RefreshToken: 86400, Interaction: 600, AuthorizationCode: 60 },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'api', audience: 'osmo-api', accessTokenFormat: 'jwt', accessTokenTTL: told.life }),
    },
  },
});

// The old way of a name and a password, which the library leaves to its users.
provider.registerGrantType('password', async (ctx) => {
  const { username, password } = ctx.oidc.params;
  if (password === 'wrong') throw new errors.InvalidGrant('no such user and password');
  const grant = new provider.Grant({ accountId: username, clientId: ctx.oidc.client.clientId });
  grant.addOIDCScope('openid profile email offline_access');
  const grantId = await grant.save();
  const scope = 'openid profile email offline_access';
  const common = { client: ctx.oidc.client, accountId: username, grantId, scope, gty: 'password' };
  const { AccessToken, RefreshToken, IdToken } = provider;
  const access = await new AccessToken(common).save();
  const refresh = await new RefreshToken({ ...common, authTime: Math.floor(Date.now() / 1000) }).save();
  const id = new IdToken({ ...profile(username), sub: username }, { ctx, client: ctx.oidc.client });
  id.scope = scope;
  id.mask = { sub: null };
  const idToken = await id.issue({ use: 'idtoken' });
  ctx.body = { access_token: access, id_token: idToken, refresh_token: refresh, token_type: 'Bearer', expires_in: told.life };
}, ['username', 'password', 'scope'], []);

const { hostname, port } = new URL(told.issuer);
provider.listen(Number(port), hostname, () => process.stdout.write('ready\n'));
