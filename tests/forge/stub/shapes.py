"""GitHub's JSON of what the store holds. Every member that GitHub's description demands is there; Prism checks that."""

from urllib.parse import quote

from .store import node_id

USER_PATHS = {
    "followers_url": "/followers", "following_url": "/following{/other_user}", "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}", "subscriptions_url": "/subscriptions", "organizations_url": "/orgs",
    "repos_url": "/repos", "events_url": "/events{/privacy}", "received_events_url": "/received_events",
}
REPOSITORY_PATHS = {
    "archive_url": "/{archive_format}{/ref}", "assignees_url": "/assignees{/user}", "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}", "collaborators_url": "/collaborators{/collaborator}", "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}", "compare_url": "/compare/{base}...{head}", "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors", "deployments_url": "/deployments", "downloads_url": "/downloads", "events_url": "/events",
    "forks_url": "/forks", "git_commits_url": "/git/commits{/sha}", "git_refs_url": "/git/refs{/sha}", "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks", "issue_comment_url": "/issues/comments{/number}", "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}", "keys_url": "/keys{/key_id}", "labels_url": "/labels{/name}", "languages_url": "/languages",
    "merges_url": "/merges", "milestones_url": "/milestones{/number}", "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}", "releases_url": "/releases{/id}", "stargazers_url": "/stargazers", "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers", "subscription_url": "/subscription", "tags_url": "/tags", "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}


class Shapes:
    def __init__(self, store):
        self.store = store

    def at(self, repository):
        return f"{self.store.api}/repos/{repository['full_name']}"

    def web(self, repository):
        return f"{self.store.web}/{repository['full_name']}"

    def user(self, login):
        one = self.store.users.get(login) or self.store.users["ghost"]
        url = f"{self.store.api}/users/{quote(one['login'])}"
        path = f"apps/{one['login'].removesuffix('[bot]')}" if one["type"] == "Bot" else one["login"]
        return {
            "login": one["login"], "id": one["id"], "node_id": node_id("User", one["id"]), "gravatar_id": "", "url": url,
            "avatar_url": f"https://avatars.githubusercontent.com/u/{one['id']}?v=4", "html_url": f"{self.store.web}/{path}",
            "type": one["type"], "user_view_type": "public", "site_admin": False,
            **{name: url + path for name, path in USER_PATHS.items()},
        }

    def whole_user(self, login):
        one = self.store.users[login]
        return self.user(login) | {
            "name": one["name"], "company": None, "blog": "", "location": None, "email": None, "hireable": None, "bio": None,
            "public_repos": 0, "public_gists": 0, "followers": 0, "following": 0, "created_at": one["created"],
            "updated_at": one["created"],
        }

    def private_user(self, login):
        return self.whole_user(login) | {
            "private_gists": 0, "total_private_repos": 0, "owned_private_repos": 0, "disk_usage": 0, "collaborators": 0,
            "two_factor_authentication": True,
        }

    def app(self):
        one = self.store.app
        return {
            "id": one["id"], "slug": one["slug"], "client_id": f"Iv1.{one['id']:016x}", "node_id": node_id("Integration", one["id"]),
            "owner": self.user(one["owner"]), "name": one["slug"], "description": "", "external_url": "https://example.com",
            "html_url": f"{self.store.web}/apps/{one['slug']}", "created_at": one["created"], "updated_at": one["created"],
            "permissions": one["permissions"], "events": ["issues", "issue_comment", "pull_request", "push"],
        }

    def installation(self, one):
        app, url = self.store.app, f"{self.store.api}/app/installations/{one['id']}"
        return {
            "id": one["id"], "client_id": f"Iv1.{app['id']:016x}", "account": self.user(one["account"]),
            "repository_selection": "all" if one["repositories"] is None else "selected", "access_tokens_url": url + "/access_tokens",
            "repositories_url": f"{self.store.api}/installation/repositories", "app_id": app["id"], "app_slug": app["slug"],
            "html_url": f"{self.store.web}/settings/installations/{one['id']}", "target_id": self.store.users[one["account"]]["id"],
            "target_type": "User", "permissions": app["permissions"], "events": ["issues", "issue_comment", "pull_request", "push"],
            "created_at": one["created"], "updated_at": one["created"], "single_file_name": None,
            "has_multiple_single_files": False, "single_file_paths": [], "suspended_by": None, "suspended_at": None,
        }

    def repository(self, one, principal=None, whole=False):
        url, web = self.at(one), self.web(one)
        open_issues = sum(1 for issue in one["issues"].values() if issue["state"] == "open")
        shape = {
            "id": one["id"], "node_id": node_id("Repository", one["id"]), "name": one["name"], "full_name": one["full_name"],
            "private": one["private"], "owner": self.user(one["owner"]), "html_url": web, "description": None, "fork": False, "url": url,
            **{name: url + path for name, path in REPOSITORY_PATHS.items()},
            "git_url": web.replace("https:", "git:") + ".git", "ssh_url": f"git@github.com:{one['full_name']}.git",
            "clone_url": f"{self.store.git}/{one['full_name']}.git", "svn_url": web, "mirror_url": None, "homepage": None,
            "language": "Rust", "license": None, "default_branch": one["default_branch"], "created_at": one["created"],
            "updated_at": one["updated"], "pushed_at": one["pushed"], "size": 100, "stargazers_count": 0, "watchers_count": 0,
            "forks_count": 0, "open_issues_count": open_issues, "forks": 0, "open_issues": open_issues, "watchers": 0,
            "has_issues": True, "has_projects": True, "has_downloads": True, "has_wiki": True, "has_pages": False,
            "has_discussions": False, "archived": False, "disabled": False, "allow_forking": True, "is_template": False, "topics": [],
            "visibility": "private" if one["private"] else "public", "web_commit_signoff_required": False,
        }
        if principal is not None and principal.kind in ("user", "installation"):
            level = one["people"].get(principal.login, "read") if principal.kind == "user" else principal.permissions.get("contents", "read")
            writes = level in ("write", "admin")
            shape["permissions"] = {"admin": level == "admin", "maintain": level == "admin", "push": writes, "triage": writes, "pull": True}
        return shape | ({"network_count": 0, "subscribers_count": 0} if whole else {})

    def label(self, repository, name):
        one = repository["labels"][name.lower()]
        return {
            "id": one["id"], "node_id": node_id("Label", one["id"]), "url": f"{self.at(repository)}/labels/{one['name'].replace(' ', '%20')}",
            "name": one["name"], "color": one["color"], "default": one["default"], "description": one["description"],
        }

    def rollup(self, repository, subject, url):
        """Counts of reactions, as they stand beside what was reacted to."""
        given = [one["content"] for one in repository["reactions"].get(subject, [])]
        words = ("+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes")
        return {"url": url + "/reactions", "total_count": len(given), **{word: given.count(word) for word in words}}

    def reaction(self, one):
        return {
            "id": one["id"], "node_id": node_id("Reaction", one["id"]), "user": self.user(one["user"]), "content": one["content"],
            "created_at": one["created"],
        }

    def common(self, repository, issue):
        """What an issue and a pull request both have."""
        people = [self.user(login) for login in issue["assignees"]]
        return {
            "number": issue["number"], "state": issue["state"], "locked": False, "title": issue["title"], "body": issue["body"],
            "user": self.user(issue["user"]), "labels": [self.label(repository, name) for name in issue["labels"]],
            "assignee": people[0] if people else None, "assignees": people, "milestone": None, "created_at": issue["created"],
            "updated_at": issue["updated"], "closed_at": issue["closed"], "active_lock_reason": None,
            "author_association": self.store.association(repository, issue["user"]),
        }

    def issue(self, repository, issue):
        url, web = f"{self.at(repository)}/issues/{issue['number']}", self.web(repository)
        shape = {
            "id": issue["id"], "node_id": node_id("Issue", issue["id"]), "url": url, "repository_url": self.at(repository),
            "labels_url": url + "/labels{/name}", "comments_url": url + "/comments", "events_url": url + "/events",
            "timeline_url": url + "/timeline", "html_url": f"{web}/{'pull' if issue['pull'] else 'issues'}/{issue['number']}",
            "comments": len(issue["comments"]), "state_reason": issue["reason"],
            "closed_by": self.user(issue["closed_by"]) if issue["closed_by"] else None,
            "performed_via_github_app": self.app() if issue["app"] else None,
            "reactions": self.rollup(repository, f"issue/{issue['number']}", url), **self.common(repository, issue),
        }
        if issue["pull"]:
            page = f"{web}/pull/{issue['number']}"
            shape |= {
                "draft": issue["pull"]["draft"],
                "pull_request": {
                    "url": f"{self.at(repository)}/pulls/{issue['number']}", "html_url": page, "diff_url": page + ".diff",
                    "patch_url": page + ".patch", "merged_at": issue["pull"]["merged_at"],
                },
            }
        return shape

    def pull(self, repository, issue, whole=True):
        pull, url, web = issue["pull"], f"{self.at(repository)}/pulls/{issue['number']}", f"{self.web(repository)}/pull/{issue['number']}"
        issue_url, statuses = f"{self.at(repository)}/issues/{issue['number']}", f"{self.at(repository)}/statuses/{pull['head_sha']}"
        side = lambda ref, sha: {
            "label": f"{repository['owner']}:{ref}", "ref": ref, "sha": sha, "user": self.user(repository["owner"]),
            "repo": self.repository(repository),
        }
        links = {
            "self": url, "html": web, "issue": issue_url, "comments": issue_url + "/comments", "review_comments": url + "/comments",
            "review_comment": f"{self.at(repository)}/pulls/comments{{/number}}", "commits": url + "/commits", "statuses": statuses,
        }
        shape = {
            "id": pull["id"], "node_id": node_id("PullRequest", pull["id"]), "url": url, "html_url": web, "diff_url": web + ".diff",
            "patch_url": web + ".patch", "issue_url": issue_url, "commits_url": url + "/commits", "review_comments_url": url + "/comments",
            "review_comment_url": links["review_comment"], "comments_url": issue_url + "/comments", "statuses_url": statuses,
            "head": side(pull["head"], pull["head_sha"]), "base": side(pull["base"], pull["base_sha"]), "draft": pull["draft"],
            "merged_at": pull["merged_at"], "merge_commit_sha": pull["merge_sha"], "auto_merge": None,
            "requested_reviewers": [self.user(login) for login in pull["requested"]], "requested_teams": [],
            "_links": {name: {"href": href} for name, href in links.items()}, **self.common(repository, issue),
        }
        if not whole:
            return shape
        git = repository["git"]
        base = git.merge_base(pull["base_sha"], pull["head_sha"]) or pull["base_sha"]
        files = git.diff(base, pull["head_sha"])
        return shape | {
            "merged": pull["merged"], "mergeable": None if pull["merged"] else True, "rebaseable": None,
            "mergeable_state": "draft" if pull["draft"] else "clean", "merged_by": self.user(pull["merged_by"]) if pull["merged_by"] else None,
            "comments": len(issue["comments"]), "review_comments": len(pull["comments"]), "maintainer_can_modify": False,
            "commits": len(git.between(base, pull["head_sha"])), "additions": sum(one["additions"] for one in files),
            "deletions": sum(one["deletions"] for one in files), "changed_files": len(files),
        }

    def comment(self, repository, one):
        url = f"{self.at(repository)}/issues/comments/{one['id']}"
        issue = repository["issues"][one["issue"]]
        page = f"{self.web(repository)}/{'pull' if issue['pull'] else 'issues'}/{one['issue']}"
        return {
            "id": one["id"], "node_id": node_id("IssueComment", one["id"]), "url": url, "html_url": f"{page}#issuecomment-{one['id']}",
            "issue_url": f"{self.at(repository)}/issues/{one['issue']}", "user": self.user(one["user"]), "created_at": one["created"],
            "updated_at": one["updated"], "author_association": self.store.association(repository, one["user"]), "body": one["body"],
            "performed_via_github_app": self.app() if one["app"] else None, "reactions": self.rollup(repository, f"comment/{one['id']}", url),
        }

    def review(self, repository, issue, one):
        web, url = f"{self.web(repository)}/pull/{issue['number']}", f"{self.at(repository)}/pulls/{issue['number']}"
        page = f"{web}#pullrequestreview-{one['id']}"
        shape = {
            "id": one["id"], "node_id": node_id("PullRequestReview", one["id"]), "user": self.user(one["user"]), "body": one["body"],
            "state": one["state"], "html_url": page, "pull_request_url": url, "commit_id": one["commit"],
            "author_association": self.store.association(repository, one["user"]),
            "_links": {"html": {"href": page}, "pull_request": {"href": url}},
        }
        return shape | ({"submitted_at": one["submitted"]} if one["submitted"] else {})

    def review_comment(self, repository, one):
        url, web = f"{self.at(repository)}/pulls/comments/{one['id']}", f"{self.web(repository)}/pull/{one['pull']}"
        pull, page = f"{self.at(repository)}/pulls/{one['pull']}", f"{web}#discussion_r{one['id']}"
        shape = {
            "id": one["id"], "node_id": node_id("PullRequestReviewComment", one["id"]), "url": url, "html_url": page,
            "pull_request_review_id": one["review"], "diff_hunk": one["hunk"], "path": one["path"], "commit_id": one["commit"],
            "original_commit_id": one["commit"], "user": self.user(one["user"]), "body": one["body"], "created_at": one["created"],
            "updated_at": one["updated"], "pull_request_url": pull, "author_association": self.store.association(repository, one["user"]),
            "_links": {"self": {"href": url}, "html": {"href": page}, "pull_request": {"href": pull}},
            "position": one["position"], "original_position": one["position"], "line": one["line"], "original_line": one["line"],
            "side": one["side"], "start_line": one["start_line"], "original_start_line": one["start_line"],
            "start_side": one["side"] if one["start_line"] else None, "subject_type": "line",
            "reactions": self.rollup(repository, f"review/{one['id']}", url),
        }
        return shape | ({"in_reply_to_id": one["reply"]} if one["reply"] else {})

    def short_commit(self, repository, sha):
        """A commit as the Git database has it."""
        one, url = repository["git"].commit(sha), f"{self.at(repository)}/git"
        parent = lambda name: {"sha": name, "url": f"{url}/commits/{name}", "html_url": f"{self.web(repository)}/commit/{name}"}
        return {
            "sha": sha, "node_id": node_id("Commit", sha), "url": f"{url}/commits/{sha}", "html_url": f"{self.web(repository)}/commit/{sha}",
            "author": one["author"], "committer": one["committer"], "message": one["message"],
            "tree": {"sha": one["tree"], "url": f"{url}/trees/{one['tree']}"}, "parents": [parent(name) for name in one["parents"]],
            "verification": {"verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None},
        }

    def commit(self, repository, sha, whole=False):
        """A commit as lists and pages have it; with its files where it is `whole`."""
        one, url = repository["git"].commit(sha), f"{self.at(repository)}/commits/{sha}"
        known = {user["email"]: login for login, user in self.store.users.items()}
        person = lambda who: self.user(known[who["email"]]) if who["email"] in known else None
        parent = lambda name: {
            "sha": name, "url": f"{self.at(repository)}/commits/{name}", "html_url": f"{self.web(repository)}/commit/{name}",
        }
        shape = {
            "sha": sha, "node_id": node_id("Commit", sha), "url": url, "html_url": f"{self.web(repository)}/commit/{sha}",
            "comments_url": url + "/comments", "author": person(one["author"]), "committer": person(one["committer"]),
            "parents": [parent(name) for name in one["parents"]],
            "commit": {
                "author": one["author"], "committer": one["committer"], "message": one["message"], "comment_count": 0,
                "tree": {"sha": one["tree"], "url": f"{self.at(repository)}/git/trees/{one['tree']}"},
                "url": f"{self.at(repository)}/git/commits/{sha}",
                "verification": {"verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None},
            },
        }
        if whole:
            from .git import EMPTY
            files = repository["git"].diff(one["parents"][0] if one["parents"] else EMPTY, sha)
            added, deleted = sum(file["additions"] for file in files), sum(file["deletions"] for file in files)
            shape |= {
                "stats": {"total": added + deleted, "additions": added, "deletions": deleted},
                "files": [self.file(repository, sha, file) for file in files],
            }
        return shape

    def file(self, repository, sha, one):
        """A changed file. GitHub leaves the patch out where it is binary or long."""
        path, web = quote(one["path"]), self.web(repository)
        shape = {
            "sha": one["sha"], "filename": one["path"], "status": one["status"], "additions": one["additions"],
            "deletions": one["deletions"], "changes": one["additions"] + one["deletions"], "blob_url": f"{web}/blob/{sha}/{path}",
            "raw_url": f"{web}/raw/{sha}/{path}", "contents_url": f"{self.at(repository)}/contents/{path}?ref={sha}",
        }
        if "old" in one:
            shape["previous_filename"] = one["old"]
        if one["patch"] and len(one["patch"]) <= 100_000:
            shape["patch"] = one["patch"]
        return shape

    def check(self, repository, one):
        url = f"{self.at(repository)}/check-runs/{one['id']}"
        output = one["output"]
        return {
            "id": one["id"], "node_id": node_id("CheckRun", one["id"]), "head_sha": one["sha"], "name": one["name"], "url": url,
            "external_id": one["external"], "html_url": f"{self.web(repository)}/runs/{one['id']}", "details_url": one["details"],
            "status": one["status"], "conclusion": one["conclusion"], "started_at": one["started"], "completed_at": one["completed"],
            "output": {
                "title": output.get("title"), "summary": output.get("summary"), "text": output.get("text"),
                "annotations_count": len(one["annotations"]), "annotations_url": url + "/annotations",
            },
            "check_suite": {"id": one["suite"]}, "app": self.app(), "pull_requests": [],
        }
