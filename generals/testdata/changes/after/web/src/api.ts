export function load(id: string, fresh: boolean): Promise<User> {
  return get(id, fresh);
}
export interface User {
  name: string;
}
