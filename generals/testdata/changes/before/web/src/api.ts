export function load(id: string): Promise<User> {
  return get(id);
}
export interface User {
  name: string;
  email: string;
}
export const VERSION = 1;
